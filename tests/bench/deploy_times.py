"""Times ONNX files on one thread, and what making a session of each takes; no CNTK. Prints a line
of JSON.

    python deploy_times.py FOLDER ROUNDS

FOLDER holds *.npz with `x` and, of the same stem, NAME.binary.onnx, NAME.native.onnx,
NAME.float.onnx and perhaps NAME.int8.onnx. In each round every way runs once, in turn; the fastest
counts.
"""
import glob
import json
import os
import sys
import time

import numpy as np
import onnxruntime

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..'))

from netopt_callbacks import deploy  # noqa: E402

BATCHES = (1, 8)


def plain(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    return onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])


def timed(call):
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def main(folder, rounds):
    rows = []
    for arrays in sorted(glob.glob(os.path.join(folder, '*.npz'))):
        stem, x = arrays[: -len('.npz')], np.load(arrays)['x']
        ways = [
            ('float', plain, stem + '.float.onnx'),
            ('int8', plain, stem + '.int8.onnx'),
            ('library', deploy.session, stem + '.binary.onnx'),
            ('standard', plain, stem + '.binary.onnx'),
            ('native', deploy.session, stem + '.native.onnx'),
        ]
        sessions = {}
        row = {'network': os.path.basename(stem), 'load_ms': {}, 'ms': {}, 'bytes': {}}
        for name, make, path in ways:
            if os.path.exists(path):
                try:
                    loads = [timed(lambda: make(path)) for _ in range(3)]
                except Exception:  # of a runtime that has no functions, or refuses int8
                    continue
                sessions[name] = loads[-1][1]
                row['load_ms'][name] = round(1000 * min(load for load, _ in loads), 2)
                row['bytes'][name] = os.path.getsize(path)
        for batch in BATCHES:
            least = {}
            for _ in range(rounds):
                for name, session in sessions.items():
                    feed = {session.get_inputs()[0].name: x[:batch]}
                    least[name] = min(
                        least.get(name, 9e9), timed(lambda: session.run(None, feed))[0]
                    )
            row['ms'][batch] = {name: round(1000 * seconds, 3) for name, seconds in least.items()}
        rows.append(row)
    print(
        json.dumps(
            {'python': sys.version.split()[0], 'onnxruntime': onnxruntime.__version__, 'rows': rows}
        )
    )


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]))
