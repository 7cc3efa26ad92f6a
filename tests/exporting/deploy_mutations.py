"""Loads and runs mutated files, on any Python that has NumPy, ONNX Runtime and the library.

    python deploy_mutations.py FIRST LAST FILE...

Each seed from FIRST to LAST - 1 mutates one of the files, which hold one state each: some bytes of
the whole, of the state, of the state under a checksum that is right again, or of what comes before
the state. Prints how many there were and what became of them. A mutation that takes longer than a
minute ends the process; the mutated file is then still there, as FILE.mutated.
"""
import collections
import faulthandler
import os
import struct
import sys
import zlib

import numpy as np
import onnxruntime

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..'))

from netopt_callbacks import deploy  # noqa: E402

HEAD = 24  # bytes of a state, see native/state.h
SECONDS = 60


def mutated(data, seed):
    random = np.random.RandomState(seed)
    at = data.index(b'netoptPR')
    end = at + HEAD + struct.unpack_from('<Q', data, at + 16)[0]
    data = bytearray(data)
    low, high = [(0, len(data)), (at, end), (at + HEAD, end), (0, at)][seed % 4]
    for _ in range(random.randint(1, 6)):
        place = random.randint(low, high)
        kind = random.randint(3)
        data[place] = [
            random.randint(256),
            data[place] ^ 1 << random.randint(8),
            [0, 1, 127, 128, 255][random.randint(5)],
        ][kind]
    if seed % 4 == 2:  # so that the state is read to its end
        struct.pack_into('<I', data, at + 12, zlib.crc32(data[at + HEAD : end]) & 0xFFFFFFFF)
    return data


def became(path):
    """What became of a file: 'refused', 'refused when run' or 'ran', or 'no text' if it was loaded
    with names that are none to Python."""
    try:
        session = deploy.session(path)
    except (ValueError, MemoryError):
        return 'refused'
    try:
        feed = {
            value.name: np.zeros(
                [side if isinstance(side, int) and side < 4096 else 2 for side in value.shape],
                np.float32,
            )
            for value in session.get_inputs()
        }
    except UnicodeDecodeError:
        return 'no text'
    try:
        session.run(None, feed)
    except Exception:  # of ONNX Runtime: any
        return 'refused when run'
    return 'ran'


def main(first, last, *paths):
    onnxruntime.set_default_logger_severity(4)
    files = []
    for path in paths:
        with open(path, 'rb') as file:
            files.append((path + '.mutated', file.read()))
    counts = collections.Counter()
    for seed in range(first, last):
        path, data = files[seed // 4 % len(files)]
        with open(path, 'wb') as file:
            file.write(mutated(data, seed))
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        counts[became(path)] += 1
        faulthandler.cancel_dump_traceback_later()
        os.unlink(path)
    print(sum(counts.values()), dict(counts))


if __name__ == '__main__':
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
