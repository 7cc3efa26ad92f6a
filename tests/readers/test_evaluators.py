"""A cntk.Evaluator over a network follows every change of it."""
import cntk as C
import pytest

import netopt_callbacks as nc
from netopt_callbacks.trainers import evaluators
from readers_scripts import BATCH, OPTIMIZATIONS, Shared
from user_script import Log

EPOCH = 4 * BATCH
every = pytest.mark.parametrize('kind', sorted(OPTIMIZATIONS))


def measures(case):
    """Functions that an Evaluator takes: that of the trainer, one of the script, one of its own."""
    return [
        C.as_composite(case.trainer.evaluation_function),
        case.error,
        C.squared_error(case.other, case.y),
    ]


def result_of(evaluator, case):
    data = case.minibatch(1)
    return evaluator.test_minibatch(
        {
            argument: data[case.y if argument.name == 'y' else case.x]
            for argument in evaluator.evaluation_function.arguments
        }
    )


@pytest.mark.few(1)
@every
def test_an_evaluator_follows_and_comes_back(kind, tmp_path):
    case = Shared()
    functions = measures(case)
    made = [C.Evaluator(function) for function in functions]

    def check():
        found = [result_of(evaluator, case) for evaluator in made]
        assert found == [result_of(C.Evaluator(function), case) for function in functions]
        return found

    with nc.attach(case.trainer, [OPTIMIZATIONS[kind]()], epoch_size=EPOCH) as run:
        case.train(4)
        case.trainer.save_checkpoint(str(tmp_path / 'early'))
        early = check()
        case.train(3)
        assert check() != early
        case.trainer.restore_from_checkpoint(str(tmp_path / 'early'))
        assert check() == early
        case.train(3)
        check()
    assert run.result.records[0].notes == []
    case.train(1)
    check()


def test_an_open_test_is_summarized_at_the_swap():
    """Its numbers are those of a summary by the script just before, and the next test is whole."""
    case = Shared()
    log, expected = Log(1), Log(1)
    evaluator, summarized = C.Evaluator(case.error, [log]), C.Evaluator(case.error, [expected])

    def test_twice():
        for one in evaluator, summarized, evaluator, summarized:
            result_of(one, case)

    with nc.attach(case.trainer, [OPTIMIZATIONS['factor']()], epoch_size=EPOCH):
        case.train(4)
        test_twice()
        summarized.summarize_test_progress()
        with pytest.warns(UserWarning, match='its summary is written now') as warned:
            case.train(1)
        assert sum('its summary' in str(one.message) for one in warned) == 1
        test_twice()
        for one in evaluator, summarized:
            one.summarize_test_progress()
    assert log.events == expected.events
    assert [event[0] for event in log.events].count('test summary') == 2


def test_an_evaluator_from_before_the_import_is_named():
    case = Shared()
    evaluator = C.Evaluator(case.error)
    del evaluator.__dict__[evaluators.WRITERS]
    with nc.attach(case.trainer, [OPTIMIZATIONS['factor']()], epoch_size=EPOCH) as run:
        case.train(4)
        with pytest.warns(UserWarning, match='Make it again with cntk.Evaluator'):
            case.train(1)
    (note,) = run.result.records[0].notes
    assert note.startswith('the Evaluator of a Function')
