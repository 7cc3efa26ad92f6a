"""What notebooks do: cells run twice, an import that comes late, Ctrl-C in the middle.

Ctrl-C is a real SIGINT that another process sends to one that runs this file.
"""
import json
import os
import re
import signal
import subprocess
import sys

import cntk as C
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import netopt_callbacks as nc
from paths import CLONE, PYTHONPATH
from user_script import SAMPLES, Identity, Script, hidden

READY = 'READY'
FOR_EVER = dict(sweeps=10**6, test=False, cross_validation=0)
MINIBATCH = 50  # divides an epoch


class Told(nc.Observer):
    """Counts what it is told; says when some minibatches are trained."""

    def __init__(self, ready_at=None):
        super().__init__()
        self.samples, self.swaps, self.ends = [], 0, 0
        self._ready_at = ready_at

    def on_minibatch(self, samples, loss, metric):
        self.samples.append(samples)
        if len(self.samples) == self._ready_at:
            print(READY, flush=True)

    def on_optimization(self, record):
        self.swaps += 1

    def on_end(self, result):
        self.ends += 1


def factor(epoch=1):
    return nc.FactorDense(epoch=epoch, rank=3, filter_function=hidden)


def test_a_run_is_shown_in_a_cell():
    script = Script()
    script.run([Identity(epoch=2)], data=script.held_out)
    shown = script.session
    assert repr(shown) == f'<Session: {shown.result!r}>'
    assert re.fullmatch(
        r'<Engine: \d+ samples, \d+ epochs; 1 of 1 optimizations applied>', repr(shown.engine)
    )
    for one in shown, shown.engine:
        assert one._repr_html_() == shown.result._repr_html_()


# The cells that are interrupted: each trains for ever and returns its run, or None.


def session(script, callbacks):
    script.session = nc.training_session(
        callbacks=callbacks, epoch_size=SAMPLES, **script.arguments
    )
    yield script.session
    script.session.train()


def hand_loop(script, callbacks):
    streams = script.arguments['model_inputs_to_streams']
    with nc.attach(script.trainer, callbacks, epoch_size=SAMPLES) as run:
        yield run
        while True:
            script.position = (
                script.learners[0].total_number_of_samples_seen(),
                script.source.get_checkpoint_state(),
            )
            minibatch = script.source.next_minibatch(MINIBATCH)
            script.trainer.train_minibatch({x: minibatch[s] for x, s in streams.items()})


def function_train(script, callbacks):
    yield None
    nc.train(
        C.combine([script.loss, script.metric]),
        script.source,
        minibatch_size=MINIBATCH,
        model_inputs_to_streams=script.arguments['model_inputs_to_streams'],
        parameter_learners=script.learners,
        epoch_size=SAMPLES,
        max_epochs=10**6,
        callbacks=callbacks,
    )


def main(loop):
    """Runs a cell until Ctrl-C, says what it left, and trains on in another cell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    handlers = signal.getsignal(signal.SIGINT), sys.excepthook
    patched = sys.modules['cntk.train.training_session'].training_session
    script, told = Script(minibatch=MINIBATCH, **FOR_EVER), Told(ready_at=30)
    cell = globals()[loop](script, [Identity(epoch=1), told])
    run = next(cell)
    try:
        next(cell)
    except KeyboardInterrupt:
        samples = script.learners[0].total_number_of_samples_seen()
    left = {
        'samples': samples,
        'state': script.state().hex(),
        'told': told.samples,
        'swaps': told.swaps,
        'ends': told.ends,
        'handlers': handlers == (signal.getsignal(signal.SIGINT), sys.excepthook)
        and patched is sys.modules['cntk.train.training_session'].training_session,
    }
    # Ctrl-C between the two lines of a hand loop leaves a minibatch read and not trained, with CNTK
    # alone too.
    if loop == 'hand_loop' and script.position[0] == samples:
        script.source.restore_from_checkpoint(script.position[1])
    if run is not None:
        left['result'] = [
            len(run.result.records),
            run.result.complete,
            len(run.result.model.parameters),
        ]
        script.arguments['max_samples'] = samples + 2 * SAMPLES
        script.run([Identity(epoch=1)])
        left['records'] = [record.samples for record in script.session.result.records]
        left['trained on'] = script.state().hex()
    print('LEFT ' + json.dumps(left))


def interrupted(loop):
    """Returns what `main` says after a SIGINT from outside, and its stderr.

    CNTK's objects have a `__del__` in Python, and Python drops what is raised in one: a SIGINT that
    falls there is lost, with CNTK alone too. Then, and only then, a second one is sent.
    """
    process = subprocess.Popen(
        [sys.executable, '-W', 'ignore', os.path.abspath(__file__), loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        env=dict(os.environ, PYTHONPATH=PYTHONPATH),
    )
    try:
        for line in process.stdout:
            if line.startswith(READY):
                process.send_signal(signal.SIGINT)
                break
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
            err, lost = re.subn(
                r'Exception ignored in: <bound method .*?\nKeyboardInterrupt\n',
                '',
                err,
                flags=re.DOTALL,
            )
            assert lost == 1, err[-3000:]
    finally:
        process.kill()  # nothing, where it has ended
    assert process.returncode == 0, err[-3000:]
    return json.loads(next(line for line in out.splitlines() if line.startswith('LEFT'))[5:]), err


@pytest.mark.few(2)
@pytest.mark.parametrize('loop', ['session', 'hand_loop', 'function_train'])
def test_ctrl_c_leaves_a_whole_trainer_and_a_partial_result(loop):
    left, said = interrupted(loop)
    assert left['handlers'] and 'SWIG' not in said and 'Traceback' not in said
    assert left['swaps'] == left['ends'] == 1
    assert left['told'] == list(range(MINIBATCH, left['told'][-1] + 1, MINIBATCH))
    # Nothing half trained: as plain CNTK after as many samples. Ctrl-C may come before it was told.
    assert left['samples'] - left['told'][-1] in (0, MINIBATCH)
    script = Script(minibatch=MINIBATCH, max_samples=left['samples'], **FOR_EVER)
    script.run_plain()
    assert left['state'] == script.state().hex()
    if loop == 'function_train':
        return  # Function.train keeps trainer and result to itself until it returns
    assert left['result'] == [1, False, len(script.z.parameters)]
    assert left['records'] == [SAMPLES]  # epochs of the second run count from its start
    script.arguments['max_samples'] = left['samples'] + 2 * SAMPLES
    script.run_plain()
    assert left['trained on'] == script.state().hex()


# Cells run twice.


def losses(folder):
    """Returns the steps of `train/loss`, as TensorBoard shows them."""
    board = EventAccumulator(str(folder), size_guidance={'scalars': 0})
    board.Reload()
    return [event.step for event in board.Scalars('train/loss')]


def test_training_cell_run_twice(tmpdir):
    """The same trainer, callbacks and folder: as CNTK's cell run twice, and no point doubled."""
    script, plain = Script(sweeps=2), Script(sweeps=2)
    told = Told()
    callbacks = [Identity(epoch=1), told, nc.TensorBoard(tmpdir, every=1)]
    epoch = list(range(64, SAMPLES, 64)) + [SAMPLES]  # CNTK cuts a minibatch at a sweep's end
    once = epoch + [SAMPLES + samples for samples in epoch]
    for _ in range(2):
        for each in (script, plain):
            each.source = each.arguments['mb_source'] = each._source('data')
            each.arguments['model_inputs_to_streams'] = each._streams(each.source, 'data')
        plain.run_plain()
        script.run(callbacks)
        assert [record.samples for record in script.session.result.records] == [SAMPLES]
        assert losses(tmpdir) == once
    assert script.outcome() == plain.outcome()
    assert (told.swaps, told.ends, told.samples) == (2, 2, 2 * once)


def test_cell_with_a_hand_written_loop_run_twice(tmpdir):
    script, told = Script(), Told()
    callbacks = [Identity(epoch=1), told, nc.TensorBoard(tmpdir, every=1)]
    for _ in range(2):
        with nc.attach(script.trainer, callbacks, epoch_size=128) as run:
            for _ in range(4):
                script.trainer.train_minibatch(
                    {script.x: script.images[:64], script.label: script.labels[:64]}
                )
        assert [record.samples for record in run.result.records] == [128]
        assert losses(tmpdir) == [64, 128, 192, 256]
    assert (told.swaps, told.ends, told.samples) == (2, 2, 2 * [64, 128, 192, 256])


def test_cell_with_nc_train_run_twice(tmpdir):
    """The cell makes its learner too: CNTK counts max_samples over the life of a learner."""
    script, told = Script(dropout=False), Told()
    callbacks = [Identity(epoch=1), told, nc.TensorBoard(tmpdir, every=1)]
    for _ in range(2):
        learner = C.sgd(script.z.parameters, C.learning_parameter_schedule(0.05))
        summary = nc.train(
            C.combine([script.loss, script.metric]),
            (script.images, script.labels),
            minibatch_size=350,
            parameter_learners=[learner],
            callbacks=callbacks,
        )
        assert [record.samples for record in summary.result.records] == [SAMPLES]
        assert losses(tmpdir) == [350, 700]
    assert (told.swaps, told.ends, told.samples) == (2, 2, 2 * [350, 700])


def test_optimization_run_twice_says_what_it_finds():
    """The first run has factored the layer: the second says so before it trains."""
    script = Script(sweeps=2, test=False)
    script.run([factor()])
    script.source = script.arguments['mb_source'] = script._source('data')
    script.arguments['model_inputs_to_streams'] = script._streams(script.source, 'data')
    before = script.outcome()
    with pytest.raises(
        ValueError, match="FactorDense: expected a Dense layer to change, got none.*'classify'"
    ):
        script.run([factor()])
    assert script.outcome() == before


def test_attach_cell_run_twice_says_what_to_do():
    script = Script()
    run = nc.attach(script.trainer, [Identity(epoch=0)], epoch_size=64)
    with pytest.raises(RuntimeError, match='attached already.*finish'):
        nc.attach(script.trainer, [Identity(epoch=0)], epoch_size=64)
    run.finish()
    nc.attach(script.trainer, [Identity(epoch=0)], epoch_size=64).finish()


def test_two_observers_on_one_folder_are_refused_before_training(tmpdir):
    """The cell that makes the callbacks was run again while the first run is not finished."""
    script, again = Script(), Script()
    feed = {script.x: script.images[:64], script.label: script.labels[:64]}
    run = nc.attach(script.trainer, [nc.TensorBoard(tmpdir)], epoch_size=64)
    script.trainer.train_minibatch(feed)
    with pytest.raises(RuntimeError, match='another observer of this process writes to'):
        again.run([nc.TensorBoard(tmpdir)])
    assert not again.log.events
    run.finish()
    again.run([nc.TensorBoard(tmpdir)])


# An import that comes late.

LATE = """
import cntk as C, numpy as np, sys
x, y = C.input_variable(3, name='x'), C.input_variable(2, name='y')
z = C.layers.Dense(2)(x)
loss = C.cross_entropy_with_softmax(z, y)
printer = C.logging.ProgressPrinter(freq=2)
learner = C.sgd(z.parameters, C.learning_parameter_schedule(0.1))
trainer = C.Trainer(z, (loss, loss), [learner], [printer])
config = C.CheckpointConfig(sys.argv[1], frequency=5)
data = np.eye(3, dtype=np.float32)[:2].repeat(4, 0), np.eye(2, dtype=np.float32).repeat(4, 0)
import netopt_callbacks as nc
import netopt_callbacks
class Identity(nc.Optimization):
    def transform(self, model):
        return model
def run(**options):
    session = nc.training_session(trainer, data, 4, None, max_samples=16, epoch_size=8,
                                  callbacks=[Identity(epoch=1)], **options)
    session.train()
    return len(session.result.records)
def attached(**options):
    with nc.attach(trainer, [Identity(epoch=1)], epoch_size=4, **options) as run:
        trainer.train_minibatch({x: data[0][:4], y: data[1][:4]})
    return len(run.result.records)
for how, options in ((run, dict()), (attached, dict()),
                     (run, dict(progress_writers=[printer], checkpoint_config=config)),
                     (run, dict(progress_writers=[printer])),
                     (attached, dict(progress_writers=[printer]))):
    try:
        print('RECORDS', how(**options))
    except ValueError as error:
        print('ERROR', error)
"""


def test_import_after_the_trainer_was_built(tmpdir):
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', LATE, str(tmpdir.join('model'))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        env=dict(os.environ, PYTHONPATH=CLONE),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    session, attach, config, works, attached = (
        line for line in done.stdout.splitlines() if line.startswith(('RECORDS', 'ERROR'))
    )
    for said in (session, attach):
        assert 'Trainer was built before' in said and 'progress_writers=' in said
    assert 'checkpoint_config was built before' in config
    assert works == attached == 'RECORDS 1'
    assert done.stdout.count('Minibatch[   1-   2]') == 1


if __name__ == '__main__':
    main(*sys.argv[1:])
