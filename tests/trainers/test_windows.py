"""Progress windows that are open while the network changes, in a loop of the user's own,
against plain CNTK."""
import cntk as C
import numpy as np
import pytest

import netopt_callbacks as nc
from user_script import Identity, Log

RANDOM = np.random.RandomState(0)
DATA = [
    (RANDOM.randn(8, 6).astype(np.float32), np.eye(3, dtype=np.float32)[RANDOM.randint(0, 3, 8)])
    for _ in range(12)
]
TRAIN, TEST, SUMMARY = 'train', 'test', 'summary'


def events(callbacks, steps, metric=C.classification_error):
    """Returns what a progress writer is told of tests while a loop trains, tests and summarizes."""
    C.cntk_py.reset_random_seed(1)
    x, y = C.input_variable(6), C.input_variable(3)
    z, log = C.layers.Dense(3)(x), Log(2)
    tests = Log(1)
    super(Log, tests).__init__(1, 0, 1, 0, 0, 0)
    tests.__disown__()
    trainer = C.Trainer(
        z,
        (C.cross_entropy_with_softmax(z, y), metric(z, y)),
        [C.sgd(z.parameters, C.learning_parameter_schedule(0.1))],
        [log, tests],
    )
    run = nc.attach(trainer, callbacks, epoch_size=8) if callbacks is not None else None
    data = iter(DATA)
    for step in steps:
        if step == SUMMARY:
            trainer.summarize_test_progress()
            continue
        pair = next(data)
        (trainer.train_minibatch if step == TRAIN else trainer.test_minibatch)(
            dict(zip((x, y), pair))
        )
    if run is not None:
        run.finish()
    return [event for each in (log, tests) for event in each.events if event[0].startswith('test')]


@pytest.mark.few(5)
@pytest.mark.parametrize('epochs', [(1,), (1, 2), (2,), (1, 2, 3)], ids=str)
@pytest.mark.parametrize(
    'steps',
    [
        (TRAIN, TEST, TEST, TRAIN, TEST, SUMMARY),
        (TRAIN, TEST, TRAIN, TEST, TRAIN, TEST, SUMMARY, TRAIN, TEST, SUMMARY),
        (TRAIN, TEST, SUMMARY, TRAIN, TEST, TEST, SUMMARY),
        (TRAIN, TEST, TRAIN, SUMMARY, TRAIN),
    ],
    ids=len,
)
def test_test_window_open_across_swaps(steps, epochs):
    epochs = [epoch for epoch in epochs if epoch <= steps.count(TRAIN)]
    plain = events(None, steps)
    assert plain and events([nc.Observer()], steps) == plain
    assert events([Identity(epoch=epoch) for epoch in epochs], steps) == plain


def test_test_window_of_a_metric_that_is_no_count():
    """What is added at once instead of one by one may differ in the last bits of a float32."""
    steps = TRAIN, TEST, TEST, TRAIN, TEST, TEST, TEST, SUMMARY
    plain = events(None, steps, C.cross_entropy_with_softmax)
    ours = events([Identity(epoch=1)], steps, C.cross_entropy_with_softmax)
    assert [event[:-1] for event in ours if 'summary' in event[0]] == [
        event[:-1] for event in plain if 'summary' in event[0]
    ]
    for mine, theirs in zip(ours, plain):
        np.testing.assert_allclose(mine[-1], theirs[-1], rtol=2.0**-22)
