"""Writes the file of a phase, and checks it completely when it is read.

The file is JSON: the fields of a `Phase`, the version of the format, and a checksum of both, which
reveals a changed field. An error names the field.
"""
import hashlib
import json

from ..count import Totals
from ..optimizations.base import LayerNote
from ..records import Record
from ..trainers.uids import NEAR, numbers

VERSION = 3
_LARGEST = 2**63  # the limit of C++'s counts
_BEFORE = (
    'it is of version %r of its form, and this netopt_callbacks reads version %d: before it, '
    'factors were kept packed in the Parameters they replaced, for learners that were never '
    'rebuilt; resume with the version of netopt_callbacks that wrote it, or start from the '
    'beginning under another name'
)


class Phase:
    """The data of one phase, see `checkpoint`; the attributes are the fields of its file."""

    PLACES = (
        'outputs',
        'arguments',
        'parameters',
        'constants',
        'learners',
        'fingerprint',
        'others',
    )
    FIELDS = PLACES + ('run', 'schedule', 'fired', 'records', 'curve', 'base', 'unique_id')
    LATER = {'others': None}  # fields that files of earlier versions lack: what they have instead

    def __init__(self, **fields):
        for name in self.FIELDS:
            setattr(self, name, fields[name])

    def to_dict(self):
        """Returns the JSON-ready fields."""
        return {name: getattr(self, name) for name in self.FIELDS}

    def places(self):
        """Returns the fields that `saved_graph.places` found."""
        return {name: getattr(self, name) for name in self.PLACES}


def write(path, phase):
    """Writes a Phase to a file."""
    fields = dict(phase.to_dict(), version=VERSION)
    with open(path, 'w', encoding='utf-8') as stream:
        json.dump(dict(fields, checksum=_checksum(fields)), stream, indent=1, sort_keys=True)


def read(path):
    """Returns the Phase in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a phase file; says which field is wrong.
    """
    with open(path, encoding='utf-8') as stream:
        fields = json.load(stream)
    if not isinstance(fields, dict):
        raise ValueError('it holds no fields')
    version = fields.get('version')
    if version != VERSION:
        raise ValueError(
            _BEFORE % (version, VERSION)
            if version in (1, 2)
            else 'its field "version" must be %d, and is %s' % (VERSION, _shown(fields, 'version'))
        )
    known = Phase.FIELDS + ('version', 'checksum')
    for name in known:
        if name not in fields and name not in Phase.LATER:
            raise ValueError(f'its field "{name}" is missing')
    for name in fields:
        if name not in known:
            raise ValueError(f'it has a field "{name}", which no such file has')
    for name, check in _CHECKS:
        if name in fields:
            check(name, fields[name])
    _check_applied(fields)
    if fields.pop('checksum') != _checksum(fields):
        raise ValueError(
            'its field "checksum" does not fit the others: one of them was changed after it was '
            'written'
        )
    del fields['version']
    return Phase(**dict(Phase.LATER, **fields))


def check_outputs(phase, saved):
    """Refuses outputs that a saved graph does not have: see `check_against`."""
    _check_places('outputs', phase.outputs, len(saved.outputs))


def check_against(phase, saved, label):
    """Refuses fields that do not match a saved graph.

    Args:
        phase (Phase): as read.
        saved (cntk.Function): the graph of its checkpoint, as loaded.
        label (str): that of the graph.

    Raises:
        ValueError: says which field is wrong.
    """
    if f'{len(phase.fired)}.{phase.run}' != label:
        raise ValueError(
            f'its fields "fired" and "run" are not of the phase {label}, which the graph is of'
        )
    counted = [
        ('arguments', len(saved.arguments)),
        ('parameters', len(saved.parameters)),
        ('constants', len(saved.constants)),
    ]
    for name, count in counted:
        _check_places(name, getattr(phase, name), count)
    for number, (_, owned) in enumerate(phase.learners):
        _check_places(f'learners[{number}][1]', owned, len(saved.parameters))
    for number, learners in enumerate(phase.others or ()):
        for place, (_, owned) in enumerate(learners):
            name = f'others[{number}][{place}][1]'
            _check_places(name, [given for kind, given in owned if kind], len(saved.parameters))
    # A resumed process advances its uid counter before it writes, so the field may be past the
    # graph's numbers. But a resume counts up to it, so it must not be far past.
    largest = max(numbers(saved.outputs))
    if phase.unique_id is not None and phase.unique_id > largest + NEAR:
        raise ValueError(
            'its field "unique_id" must not be past the numbers of the graph, which end with '
            f'{largest}, and is {phase.unique_id}'
        )


def _check_places(name, places, count):
    for place in places:
        if place is not None and place >= count:
            raise ValueError(f'its field "{name}" has {place}, and the graph has but {count} such')


def _checksum(fields):
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(text.encode('utf-8')).hexdigest()


def _shown(fields, name):
    text = json.dumps(fields[name]) if name in fields else 'missing'
    return text if len(text) <= 80 else text[:80] + ' ...'


# What a field must be. Each check gets the name and the value of a field.


def _must(right, name, what, value):
    if not right:
        raise ValueError(f'its field "{name}" must be {what}, and is {_shown({name: value}, name)}')


def _text(name, value):
    _must(isinstance(value, str), name, 'a text', value)


def _flag(name, value):
    _must(isinstance(value, bool), name, 'true or false', value)


def _number(name, value):
    _must(isinstance(value, (int, float)) and not isinstance(value, bool), name, 'a number', value)


def _count(name, value):
    _must(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST,
        name,
        'a whole number from 0 to 2^63',
        value,
    )


def _or_null(check):
    def either(name, value):
        if value is not None:
            check(name, value)

    return either


def _list_of(check):
    def each(name, value):
        _must(isinstance(value, list), name, 'a list', value)
        for number, item in enumerate(value):
            check(f'{name}[{number}]', item)

    return each


def _these(*checks):
    """A check for a list with one value for each of these checks."""

    def each(name, value):
        _must(
            isinstance(value, list) and len(value) == len(checks),
            name,
            f'a list of {len(checks)}',
            value,
        )
        for number, (item, check) in enumerate(zip(value, checks)):
            check(f'{name}[{number}]', item)

    return each


def _fields(checks, later=()):
    """A check for an object with exactly the fields of `checks`; files of earlier versions may lack
    those of `later`."""

    def each(name, value):
        _must(isinstance(value, dict), name, 'an object with fields', value)
        for field in value:
            _must(
                field in checks,
                f'{name}.{field}',
                'one of %s' % ', '.join(sorted(checks)),
                value[field],
            )
        for field, check in sorted(checks.items()):
            if field in value:
                check(f'{name}.{field}', value[field])
            elif field not in later:
                raise ValueError(f'its field "{name}.{field}" is missing')

    return each


def _epoch(name, value):
    (_these(_count, _count) if isinstance(value, list) else _count)(name, value)


def _some_places(name, value):
    _list_of(_count)(name, value)
    _must(value, name, 'a list with something in it', value)


def _layer(name, value):
    """Checks the note of a layer: LayerNote must return each of its fields unchanged."""
    _fields({field: lambda *_: None for field in LayerNote.FIELDS})(name, value)
    for field in LayerNote.FIELDS:
        try:
            made = getattr(LayerNote.from_dict(dict({'name': ''}, **{field: value[field]})), field)
        except (TypeError, ValueError, OverflowError):
            made = LayerNote  # a value that JSON cannot hold
        _must(
            made is not LayerNote and json.dumps(made) == json.dumps(value[field]),
            f'{name}.{field}',
            'what a record has there',
            value[field],
        )


def _options(name, value):
    """Checks the options of a record: see `options.kept`."""
    _must(isinstance(value, dict), name, 'an object with fields', value)
    for field, option in value.items():
        _option(f'{name}.{field}', option)


def _option(name, value):
    if isinstance(value, dict):
        _fields({'text': _text})(name, value)
    elif isinstance(value, list):
        _list_of(_option)(name, value)


_totals = _or_null(_fields({field: _or_null(_count) for field in Totals._fields}))
_curve = _list_of(_these(_count, _number))
_record = _fields(
    {
        'optimization': _text,
        'epoch': _count,
        'samples': _count,
        'metric_before': _or_null(_number),
        'metric_after': _or_null(_number),
        'curve': _curve,
        'layers': _list_of(_layer),
        'notes': _list_of(_text),
        'larger_is_better': _flag,
        'network_before': _totals,
        'network_after': _totals,
        'epochs': _list_of(_count),
        'curve_before': _curve,
        'error_after': _or_null(_number),
        'options': _or_null(_options),
    },
    later=('error_after', 'options'),
)
_CHECKS = (
    ('outputs', _some_places),
    ('arguments', _list_of(_or_null(_count))),
    ('parameters', _list_of(_or_null(_count))),
    ('constants', _list_of(_or_null(_count))),
    ('learners', _list_of(_these(_or_null(_count), _list_of(_count)))),
    (
        'others',
        _or_null(
            _list_of(_list_of(_these(_or_null(_count), _list_of(_these(_flag, _or_null(_count))))))
        ),
    ),
    ('fingerprint', _text),
    ('run', _text),
    ('schedule', _list_of(_these(_text, _epoch))),
    ('fired', _list_of(_count)),
    ('records', _list_of(_record)),
    ('curve', _curve),
    ('base', _these(_count, _count, _count)),
    ('unique_id', _or_null(_count)),
    ('checksum', _text),
)


def _check_applied(fields):
    """Checks that the fields are consistent with each other."""
    fired, known = fields['fired'], range(len(fields['schedule']))
    _must(
        len(set(fired)) == len(fired) and set(fired) <= set(known),
        'fired',
        'different places in the schedule',
        fired,
    )
    _must(
        len(fields['records']) == len(fired),
        'records',
        'one for each that was applied',
        fields['records'],
    )
    for number, record in enumerate(fields['records']):
        _must(
            len(record['epochs']) == len(record['curve']),
            f'records[{number}].epochs',
            'one for each point of its curve',
            record['epochs'],
        )
    for name, learners in [('learners', fields['learners'])] + [
        (f'others[{number}]', each) for number, each in enumerate(fields.get('others') or ())
    ]:
        for number, (made_by, _) in enumerate(learners):
            _must(
                made_by is None or made_by in known,
                f'{name}[{number}][0]',
                'a place in the schedule',
                made_by,
            )


def records_of(phase, samples):
    """Returns the records of a phase as objects, with their curves up to `samples`."""
    records = [Record.from_dict(fields) for fields in phase.records]
    for record in records:
        record.cut(samples)
    return records


def curve_of(phase, samples):
    """Returns the curve of a phase before its first optimization, up to `samples`."""
    return [(at, float(metric)) for at, metric in phase.curve if at <= samples]
