"""Runs exported files where there is no CNTK: any Python that has NumPy, ONNX Runtime and the
library.

    python deploy_host.py FOLDER [THREADS]

FOLDER holds pairs NAME.onnx and NAME.npz, which has the arrays `in:<input>`, `out:<output>`,
`exact` (whether bits must be equal) and `refused` (what the library must say of a file that is
wrong, else ''). Prints a line of JSON: the versions, the faults found with the
library and without it, and a checksum of all outputs of each way.
"""
import glob
import json
import os
import sys
import zlib

import numpy as np
import onnxruntime

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..'))

from netopt_callbacks import deploy  # noqa: E402


def session_without_library(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    return onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])


def fault(session, arrays, outputs):
    """What is wrong, in words; None where nothing is. Adds what the session gives to a list."""
    feed = {name[3:]: arrays[name] for name in arrays.files if name.startswith('in:')}
    for name in sorted(name for name in arrays.files if name.startswith('out:')):
        expected = arrays[name]
        found = session.run([name[4:]], feed)[0]
        outputs.append(found)
        if found.shape != expected.shape or found.dtype != expected.dtype:
            return f'{name} is {found.dtype} {found.shape}, expected {expected.shape}'
        if arrays['exact']:
            same = (found == expected) | (np.isnan(found) & np.isnan(expected))
        else:
            same = np.abs(found - expected) <= 1e-4 * np.abs(expected).max()
            if expected.ndim == 2:
                same &= (found.argmax(1) == expected.argmax(1))[:, None]
        if not same.all():
            return f'{name} differs in {(~same).sum()} of {same.size} values'
    return None


def main(folder, threads=1):
    faults = {'library': {}, 'standard': {}}
    checksums = {'library': 0, 'standard': 0}
    files = sorted(glob.glob(os.path.join(folder, '*.onnx')))
    for path in files:
        with np.load(path[: -len('onnx')] + 'npz') as arrays:
            refused = str(arrays['refused'])
            for way, make in (('library', deploy.session), ('standard', session_without_library)):
                if refused and way == 'standard':
                    continue
                outputs = []
                try:
                    found = fault(make(path, threads), arrays, outputs)
                except Exception as error:  # of ONNX Runtime: any
                    found = f'{type(error).__name__}: {str(error)[:500]}'
                if refused:
                    found = None if refused in str(found) else f'{found}, expected {refused}'
                if found:
                    faults[way][os.path.basename(path)] = found
                for output in outputs:
                    checksums[way] = zlib.crc32(output.tobytes(), checksums[way])
    print(
        json.dumps(
            {
                'python': sys.version.split()[0],
                'onnxruntime': onnxruntime.__version__,
                'files': len(files),
                'cntk': 'cntk' in sys.modules,
                'faults': faults,
                'checksums': checksums,
            }
        )
    )


if __name__ == '__main__':
    main(sys.argv[1], *map(int, sys.argv[2:]))
