"""Networks that share uids: CNTK loads a model with the uids it was saved with."""
import re

import cntk as C
import numpy as np
import pytest
from cntk import cntk_py

import netopt_callbacks as nc
from netopt_callbacks.trainers import uids
from readers_scripts import BATCH, OPTIMIZATIONS, Shared, first, momentum

EPOCH = 4 * BATCH
every = pytest.mark.parametrize('kind', sorted(OPTIMIZATIONS))


def copy_of(model, folder):
    path = str(folder / 'copy.model')
    model.save(path)
    return C.load_model(path)


@pytest.mark.few(1)
@every
def test_a_loaded_copy_is_another_network(kind, tmp_path):
    """It computes what it did, in every bit, while the network of its file changes."""
    case = Shared()
    copy = copy_of(case.z, tmp_path)
    reader = C.softmax(copy)
    before = [first(copy, case.few).tobytes(), first(reader, case.few).tobytes()]
    outputs = copy.outputs
    with nc.attach(case.trainer, [OPTIMIZATIONS[kind]()], epoch_size=EPOCH) as run:
        case.train(5)
        assert run.current(reader) is reader and copy.outputs == outputs
        case.check()
    assert [first(copy, case.few).tobytes(), first(reader, case.few).tobytes()] == before


@pytest.mark.few(1)
@every
def test_what_mixes_the_network_with_a_copy_is_named(kind, tmp_path):
    """CNTK cannot evaluate it (two parts have one name), but it may be alive."""
    case = Shared()
    copy = copy_of(case.z, tmp_path)
    before = first(copy, case.few).tobytes()
    mixed = C.reduce_max(C.abs(case.z - copy), name='difference')
    evaluator = C.Evaluator(C.reduce_sum(mixed, name='of the difference'))
    with nc.attach(case.trainer, [OPTIMIZATIONS[kind]()], epoch_size=EPOCH) as run:
        case.train(4)
        with pytest.warns(UserWarning, match="the Function 'difference' reads layers that"):
            case.train(1)
        case.check()
        with pytest.raises(ValueError, match='two parts of the network have the uid'):
            run.current(mixed)
        case.train(4)
    notes = '\n'.join(run.result.records[0].notes)
    assert "clone('clone')" in notes and "the Evaluator of the Function 'of the diff" in notes
    assert first(copy, case.few).tobytes() == before and evaluator


def test_another_trainer_that_mixes_the_network_with_a_copy_is_refused(tmp_path):
    case = Shared()
    loss = C.squared_error(case.z, copy_of(case.z, tmp_path))
    other = C.Trainer(case.z, (loss, None), [momentum(case.z.parameters)])
    error = pytest.raises(ValueError, match=r"another Trainer.*copy.clone\('clone'\)")
    with error, nc.attach(case.trainer, [OPTIMIZATIONS['factor']()], epoch_size=EPOCH):
        case.train(1)
    assert case.trainer.total_number_of_samples_seen == 0 and other.model
    case.train(1)


def test_a_restore_takes_no_leaves_of_a_loaded_copy(tmp_path):
    """A restore to before a swap brings back the script's own Parameters, not those of a copy."""
    case = Shared()
    own = list(case.z.parameters)
    with nc.attach(case.trainer, [OPTIMIZATIONS['factor']()], epoch_size=EPOCH):
        case.train(2)
        case.trainer.save_checkpoint(str(tmp_path / 'early'))
        copy = copy_of(case.z, tmp_path)
        theirs = list(copy.parameters)
        case.train(4)
        case.trainer.restore_from_checkpoint(str(tmp_path / 'early'))
        before = first(copy, case.few).tobytes()
        assert list(case.z.parameters) == own and own != theirs
        case.train(1)
        assert first(copy, case.few).tobytes() == before
        case.train(4)
    assert first(copy, case.few).tobytes() == before


AHEAD = 5000


def of_another_process(folder, load=C.load_model):
    """Loads a model whose uids CNTK has not come to yet, like those of a larger script."""
    begin = cntk_py.new_unique_id()
    if len(str(begin)) < len(str(begin + 2 * AHEAD)):
        uids.advance(10 ** len(str(begin)))  # so that the changed file is as long
    x = C.input_variable(4)
    model = C.layers.Sequential(
        [C.layers.Dense(8, activation=C.tanh, name='one'), C.layers.Dense(6)]
    )(x)
    path = folder / 'ahead.model'
    model.save(str(path))
    path.write_bytes(
        re.sub(
            b'((?:Block|Input|Parameter|Placeholder|Plus|Tanh|Times|CompositeFunction))([0-9]+)',
            lambda found: found.group(1) + b'%d' % (int(found.group(2)) + AHEAD),
            path.read_bytes(),
        )
    )
    loaded = load(str(path))
    assert max(uids.numbers(loaded.outputs)) > max(uids.numbers(model.outputs))
    return loaded


def test_what_is_built_after_a_load_has_numbers_of_its_own(tmp_path):
    loaded = of_another_process(tmp_path)
    assert cntk_py.new_unique_id() > max(uids.numbers(loaded.outputs))
    again = cntk_py.new_unique_id()
    copy_of(loaded, tmp_path)
    assert cntk_py.new_unique_id() < again + AHEAD / 10  # nothing to count past


def test_two_blocks_with_one_uid_are_refused_before_training(tmp_path):
    """CNTK trains them, and nothing due leaves that as it is."""
    base = of_another_process(tmp_path, C.Function.load.of_cntk)
    x, begin = C.input_variable(6), cntk_py.new_unique_id()
    one = base.find_by_name('one')
    uids.advance(number_of(one) - (number_of(C.layers.Dense(3)(x).root_function) - begin))
    z = C.layers.Dense(3, name='four')(base)
    assert z.root_function.uid == one.uid
    label = C.input_variable(3)
    trainer = C.Trainer(
        z,
        (C.squared_error(z, label), None),
        [C.sgd(z.parameters, C.learning_parameter_schedule(0.1))],
    )
    minibatch = {base.arguments[0]: np.ones((2, 4), 'f'), label: np.ones((2, 3), 'f')}
    with nc.attach(trainer, [], epoch_size=2):
        trainer.train_minibatch(minibatch)
    error = pytest.raises(ValueError, match=r"have the uid Block.*'four' \(shape \(3,\)\)")
    with error, nc.attach(trainer, [nc.FactorDense(epoch=1, rank=1)], epoch_size=2):
        trainer.train_minibatch(minibatch)
    trainer.train_minibatch(minibatch)


def number_of(block):
    return int(block.uid[len('Block') :])
