"""Makes the pictures of docs/images from the event files of the demo.

    make screenshots          (or: .venv/bin/python docs/screenshots.py, after `make demo`)

`recovery.png`, the curve on README's first screen, is drawn by matplotlib from the scalars
`recovery/metric` and `recovery/baseline` that the demo wrote. The others are TensorBoard as a
headless Chromium shows it: the first in docs/images, and each tab in two sizes, light and dark,
in the folder `--all`, to be looked at. Where there is no Chromium, only the curve is made.
"""
import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
SIZES = ((1600, 1000), (1280, 800))
TABS = {
    'recovery': 'custom_scalars&_smoothingWeight=0',
    'scalars': 'scalars&_smoothingWeight=0',
    'text': 'text',
    'images': 'images',
    'histograms': 'histograms',
    'hparams': 'hparams',
}
KEPT = ('recovery',)  # at the smaller size, light
MOST_BYTES = 150 * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--runs', default='runs', help='where the demo wrote (default: runs)')
    parser.add_argument('--all', help='a folder for every tab, in two sizes, light and dark')
    arguments = parser.parse_args()
    folder = os.path.join(arguments.runs, 'digits')
    if not os.path.isdir(folder):
        sys.exit(f'there is no folder {folder}: run `make demo` first, or give --runs')
    images = os.path.join(HERE, 'images')
    os.makedirs(images, exist_ok=True)
    draw_recovery(folder, os.path.join(images, 'recovery.png'))
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(
            'no %s on PATH: pictures of TensorBoard are left as they are; install Chromium to make '
            'them' % ' or '.join(BROWSERS)
        )
    with tensorboard(arguments.runs) as address:
        for tab in KEPT:
            shoot(browser, address, tab, SIZES[1], False, os.path.join(images, f'{tab}_tab.png'))
        if arguments.all:
            os.makedirs(arguments.all, exist_ok=True)
            for tab in TABS:
                for size in SIZES:
                    for dark in (False, True):
                        name = f'{tab}-{size[0]}-{"dark" if dark else "light"}.png'
                        shoot(browser, address, tab, size, dark, os.path.join(arguments.all, name))


def draw_recovery(folder, file):
    """Draws the held-out metric of a run, its optimizations and its baseline."""
    events = EventAccumulator(folder, size_guidance={'scalars': 0, 'tensors': 0})
    events.Reload()
    metric, baseline = (
        [(point.step, 100 * point.value) for point in events.Scalars(tag)]
        for tag in ('recovery/metric', 'recovery/baseline')
    )
    applied = sorted(
        (event.step, tag.split('/')[1])
        for tag in events.Tags()['tensors']
        if tag.startswith('netopt/') and tag.split('/')[1] not in ('plan', 'result')
        for event in events.Tensors(tag)
    )
    figure, axes = plt.subplots(figsize=(9, 3.6), dpi=100)
    axes.plot(*zip(*baseline), color='0.6', dashes=(4, 2), label='without optimizations')
    axes.plot(*zip(*metric), color='#1f77b4', linewidth=2, label='optimized while it trains')
    shown = [value for step, value in metric if step]  # the untrained network is far above
    top = 1.25 * max(shown)
    for step, name in applied:
        axes.axvline(step, color='#d62728', linewidth=1)
        axes.text(step, 0.97 * top, f' {name}', color='#d62728', va='top')
    axes.set(ylim=(0, top), xlim=(0, metric[-1][0]))
    axes.set(xlabel='samples trained', ylabel='held-out error in %')
    axes.legend(frameon=False, loc='upper right')
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)
    checked(file)


@contextlib.contextmanager
def tensorboard(runs):
    """Serves a folder of runs; gives its address."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    command = [sys.executable, '-m', 'tensorboard.main', '--logdir', runs, '--port', str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ)
    )
    address = f'http://localhost:{port}/'
    try:
        for _ in range(60):
            time.sleep(1)
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(address + 'data/runs') as answer:
                    if b'digits' in answer.read():
                        break
        else:
            raise RuntimeError(f'TensorBoard did not show the runs of {runs} within a minute')
        yield address
    finally:
        process.terminate()
        process.wait()


def shoot(browser, address, tab, size, dark, file):
    """Takes a picture of a tab."""
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser,
                '--headless',
                '--no-sandbox',
                '--disable-gpu',
                '--hide-scrollbars',
                '--user-data-dir=' + profile,
                '--window-size=%d,%d' % size,
                '--virtual-time-budget=25000',
                '--screenshot=' + os.path.abspath(file),
                f'{address}?darkMode={str(dark).lower()}#{TABS[tab]}',
            ],
            check=True,
            timeout=120,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    if os.path.dirname(os.path.abspath(file)) == os.path.join(HERE, 'images'):
        checked(file)


def checked(file):
    """Refuses a picture that is too large for the repository."""
    size = os.path.getsize(file)
    if size > MOST_BYTES:
        raise RuntimeError(f'{file} has {size:,} bytes, and may have {MOST_BYTES:,}')
    print(f'{file}: {size:,} bytes')


if __name__ == '__main__':
    main()
