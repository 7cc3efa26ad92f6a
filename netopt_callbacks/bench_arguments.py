"""The arguments of `python -m netopt_callbacks bench`."""
import argparse

from netopt_callbacks import bench_networks, bench_peers
from netopt_callbacks.bench_network_specs import NETWORKS
from netopt_callbacks.native_arrays import INT32
from netopt_callbacks.native_machine import MOST_THREADS

SHAPES = ((64, 56, 64, 3), (128, 28, 128, 3), (256, 14, 256, 3), (512, 7, 512, 3), (256, 56, 64, 1))


def parser(description):
    """Returns the parser; `description` is what the command says of itself."""
    made = argparse.ArgumentParser(prog='python -m netopt_callbacks bench', description=description)
    made.add_argument('--json', action='store_true', help='print JSON instead of a table')
    made.add_argument(
        '--shapes',
        nargs='+',
        type=_shape,
        default=list(SHAPES),
        metavar='C,H,F,K',
        help='channels, image height and width, filters, kernel height and width',
    )
    made.add_argument('--batches', nargs='+', type=_up_to(INT32), default=[1, 8])
    made.add_argument('--threads', nargs='+', type=_up_to(MOST_THREADS), default=[1, 2])
    made.add_argument(
        '--rounds', type=_up_to(INT32), default=30, help='timed rounds of every contestant'
    )
    made.add_argument(
        '--no-program',
        dest='program',
        action='store_false',
        help='leave out the program of whole layers',
    )
    made.add_argument(
        '--networks',
        nargs='*',
        choices=tuple(NETWORKS),
        metavar='NETWORK',
        help='time whole networks in place of single layers: all of them, or some of %s; needs '
        'CNTK. The peers of --peer-python are then %s'
        % (', '.join(NETWORKS), bench_networks.PINNED),
    )
    made.add_argument(
        '--peer-python',
        metavar='PATH',
        help='a Python with the int8 convolutions of onnxruntime, torch or both, for '
        'docs/performance.md: ' + bench_peers.PINNED,
    )
    made.add_argument('--plot', metavar='FILE.png', help='draw a bar chart too (needs matplotlib)')
    return made


def _up_to(most):
    def number(text):
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f'expected a whole number from 1 to {most}, received {text!r}'
            )
        return int(text)

    return number


def _shape(text):
    try:
        channels, size, filters, kernel = (int(part) for part in text.split(','))
        if min(channels, size, filters, kernel) < 1:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'expected four positive integers C,H,F,K, received {text!r}'
        ) from None
    return channels, size, filters, kernel
