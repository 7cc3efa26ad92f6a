"""What a run mends or removes is its own: NAME, and NAME with a number, of no other run."""
import pytest

import netopt_callbacks as nc
from netopt_callbacks.engine import checkpoint
from user_script import Identity, Script

PAIR = ['', '.ckp', '.tmp', '.ckp.tmp']
NEIGHBOURS = [
    'model_b',
    'model-2',
    'model.best',
    'modelling',
    'model\u00b2',
    'model\u0663',
    'model1x',
    'Model',
]


def laid(folder, name, ends):
    for end in ends:
        folder.join(name + end).write('of run ' + name)


def listed(folder):
    return {file.basename: file.read_binary() for file in folder.listdir() if file.isfile()}


# CNTK replaces a pair as: both .tmp, both old ones unlinked, two renames.
STAGES = pytest.mark.parametrize(
    'ends',
    [PAIR, PAIR[1:], PAIR[2:], ['', '.ckp.tmp'], ['.ckp', '.ckp.tmp'], ['', '.ckp']],
    ids=['written', 'one unlinked', 'both unlinked', 'one renamed', 'cut', 'whole'],
)


@STAGES
@pytest.mark.parametrize('name', NEIGHBOURS)
def test_files_of_a_run_named_alike_stay_as_they_are(name, ends, tmpdir):
    laid(tmpdir, name, ends)
    tmpdir.mkdir(name + '.netopt').join('whole').write('')
    before = listed(tmpdir)
    assert checkpoint.Checkpoints(str(tmpdir.join('model')), []).find() is None
    assert listed(tmpdir) == before


@STAGES
def test_files_of_a_run_whose_name_is_this_one_and_a_number_stay_as_they_are(ends, tmpdir):
    """Its folder tells it from a checkpoint that `preserve_all` numbered."""
    laid(tmpdir, 'model7', ends)
    tmpdir.mkdir('model7.netopt')
    before = listed(tmpdir)
    checkpoint.Checkpoints(str(tmpdir.join('model')), []).find()
    assert listed(tmpdir) == before


@pytest.mark.parametrize(
    'ends, left',
    [
        (['.tmp', '.ckp.tmp'], []),
        (['', '.ckp.tmp'], ['', '.ckp']),
        (PAIR, ['', '.ckp']),
        (['.ckp.tmp'], []),
    ],
)
def test_numbers_of_its_own_are_mended(ends, left, tmpdir):
    laid(tmpdir, 'model7', ends)
    found = checkpoint.Checkpoints(str(tmpdir.join('model')), []).find()
    assert sorted(listed(tmpdir)) == sorted('model7' + end for end in left)
    assert found == (str(tmpdir.join('model7')) if left else None)


def test_a_number_is_what_cntk_takes_for_one(tmpdir):
    for name in 'model9', 'model10', 'model\u00b2', 'model1x':
        laid(tmpdir, name, ['', '.ckp'])
    laid(tmpdir, 'model11', ['.ckp'])
    assert checkpoint.newest(str(tmpdir.join('model'))) == str(tmpdir.join('model10'))


def test_session_beside_a_run_that_is_replacing_its_checkpoint(tmpdir):
    laid(tmpdir, 'model_b', ['.tmp', '.ckp.tmp'])
    tmpdir.mkdir('model_b.netopt').join('whole').write('')
    script = Script(folder=str(tmpdir), test=False, checkpoint=300, cross_validation=0, sweeps=2)
    script.run([Identity(epoch=1), nc.Observer()])
    left = listed(tmpdir)
    assert [left['model_b' + end] for end in ('.tmp', '.ckp.tmp')] == [b'of run model_b'] * 2
    assert 'model' in left
