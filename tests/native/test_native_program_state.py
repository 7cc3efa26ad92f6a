"""States of programs: equal on the way back, and refused with a sentence when they are anything
but whole."""
import pickle
import struct
import zlib

import numpy as np
import pytest

import native_program_cases as cases
from netopt_callbacks import native
from netopt_callbacks.native_program_bytes import with_head

F = np.float32
HEAD = 24


def small_program(seed, ops=5, size=(4, 5)):
    """A program, and an input of it, that has few channels and a fixed size."""
    random = np.random.RandomState(seed)
    while True:
        builder = cases.random_program(random, ops, size=size)
        if 'other' in builder.inputs or builder.inputs['x'][0] > 40:
            continue
        names = sorted(name for name in builder.shapes if name not in builder.inputs)
        if names:
            return native.Program(builder.ops, builder.inputs, names), cases.special(
                random, (2,) + builder.inputs['x']
            )


def resealed(state):
    """The bytes with a head that fits them."""
    return with_head(state[HEAD:])


@pytest.mark.parametrize('seed', range(5))
def test_state_and_pickle(seed):
    program, x = small_program(seed)
    state = program.state()
    assert isinstance(state, bytes) and resealed(state) == state
    for made in (native.Program.from_state(state), pickle.loads(pickle.dumps(program))):
        assert made.state() == state and made.inputs == program.inputs
        assert [y.tobytes() for y in _results(made, x)] == [
            y.tobytes() for y in _results(program, x)
        ]
    for name in native.implementations():
        assert native.Program.from_state(state, implementation=name).implementation == name


def _results(program, *inputs):
    results = program(*inputs)
    return results if isinstance(results, tuple) else (results,)


def test_the_state_holds_bits():
    random = np.random.RandomState(0)
    weights = random.randn(64, 64, 3, 3).astype(F)
    program = native.Program(
        [
            dict(op='pack', input='x', bits='b', threshold=0.0),
            dict(op='convolution', input='b', weights=weights, values='y'),
        ],
        dict(x=(64, 8, 8)),
        ['y'],
    )
    assert len(program.state()) < weights.size / 8 + 1000


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda s: b'', 'not the state'),
        (lambda s: s[:10], 'not the state'),
        (lambda s: b'X' + s[1:], 'not the state'),
        (lambda s: s[:-1], 'bytes follow'),
        (lambda s: s + b'0', 'bytes follow'),
        (lambda s: s[:8] + struct.pack('<I', 99) + s[12:], 'version 99'),
        (lambda s: s[:-1] + bytes([s[-1] ^ 1]), 'checksum'),
        (lambda s: resealed(s + b'0'), 'goes on'),
        (lambda s: resealed(s[:-1]), 'ends early'),
        (lambda s: resealed(s[:HEAD] + b'\xff' * 4 + s[HEAD + 4 :]), 'inputs'),
    ],
)
def test_damaged(change, message):
    state = small_program(0)[0].state()
    with pytest.raises(ValueError, match=message):
        native.Program.from_state(change(state))


def test_not_bytes():
    for state in (None, {}, 'text', bytearray(small_program(0)[0].state())):
        with pytest.raises(TypeError, match='bytes'):
            native.Program.from_state(state)


def _text(text):
    return struct.pack('<H', len(text)) + text


def state_by_hand(ops, inputs=((3, 4, 4, 3),), outputs=None):
    """A state with a right head from ops (name, reads, fields) of one value each, fields (name,
    type, values); the output
    is the last value."""
    outputs = ((len(inputs) + len(ops) - 1, 3),) if outputs is None else outputs
    parts = [struct.pack('<I', len(inputs))] + [struct.pack('<qqqI', *one) for one in inputs]
    parts.append(struct.pack('<I', len(ops)))
    for name, reads, fields in ops:
        parts += [
            _text(name),
            struct.pack(f'<I{len(reads)}I', len(reads), *reads),
            struct.pack('<I', len(fields)),
        ]
        for field, code, values in fields:
            data = (
                values if code == 3 else np.asarray(values, ('<i8', '<f4', '<u8')[code]).tobytes()
            )
            parts.append(_text(field) + struct.pack('<BQ', code, len(values)) + data)
    parts.append(struct.pack('<I', len(outputs)))
    return with_head(b''.join(parts + [struct.pack('<II', *one) for one in outputs]))


def map_op(reads, store=1, low=None, steps=b'relu', extra=()):
    limits = [] if low is None else [(b'low', 1, [low]), (b'high', 1, [1.0])]
    return b'map', reads, [(b'steps', 3, steps), (b'store', 0, [store])] + limits + list(extra)


def geometry(kernel=(2, 2), strides=(1, 1), padding=(0, 0, 0, 0)):
    return [
        (b'kernel', 0, list(kernel)),
        (b'strides', 0, list(strides)),
        (b'padding', 0, list(padding)),
    ]


def convolution_op(
    words=(1,) * 4,
    channels=3,
    filters=1,
    groups=1,
    kernel=(2, 2),
    thresholds=None,
    dilation=(1, 1),
    **keys,
):
    ending = (
        [(b'steps', 3, b''), (b'store', 0, [1])]
        if thresholds is None
        else [(b'thresholds', 0, thresholds)]
    )
    return (
        b'convolution',
        [1],
        geometry(kernel, **keys)
        + [
            (b'dilation', 0, list(dilation)),
            (b'groups', 0, [groups]),
            (b'filters', 0, [filters]),
            (b'channels', 0, [channels]),
            (b'words', 2, list(words)),
        ]
        + ending,
    )


PACK = (
    b'pack',
    [0],
    [(b'steps', 3, b''), (b'store', 0, [0]), (b'low', 1, [0.5]), (b'high', 1, [np.inf])],
)
BIG = 2**31 - 1


def test_the_states_by_hand_are_read():
    assert native.Program.from_state(state_by_hand([map_op([0])]))(
        np.ones((1, 3, 4, 4), F)
    ).shape == (1, 3, 4, 4)
    assert native.Program.from_state(state_by_hand([PACK, convolution_op()]))(
        np.ones((1, 3, 4, 4), F)
    ).shape == (1, 1, 3, 3)


@pytest.mark.parametrize(
    'state, message',
    [
        (dict(ops=[map_op([1])]), 'reads value 1'),
        (dict(ops=[map_op([2**32 - 1])]), 'only the values'),
        (dict(ops=[map_op([0], steps=b'add_value'), map_op([1])]), 'reads 1 values, expected 2'),
        (dict(ops=[map_op([0])], outputs=((7, 3),)), 'does not exist'),
        (dict(ops=[map_op([0])], outputs=((0, 3),)), 'input'),
        (dict(ops=[PACK], outputs=((1, 3),)), 'float values'),
        (dict(ops=[map_op([0])], outputs=()), 'no outputs'),
        (dict(ops=[map_op([0])], inputs=()), 'no inputs'),
        (dict(ops=[map_op([0])], outputs=((1, 2),)), 'rank 2'),
        (dict(ops=[map_op([0])], inputs=((0, 4, 4, 3),)), '0 channels'),
        (dict(ops=[map_op([0])], inputs=((2**40, 4, 4, 3),)), 'channels'),
        (dict(ops=[map_op([0])], inputs=((3, 2**40, 4, 3),)), 'pixels'),
        (dict(ops=[map_op([0])], inputs=((3, -1, 4, 3),)), 'pixels'),
        (dict(ops=[map_op([0])], inputs=((3, 65536, 65536, 3),)), 'larger than a program takes'),
        (dict(ops=[map_op([0])], inputs=((3, 4, 4, 1),)), 'rank 1'),
        (dict(ops=[(b'mop', [0], [])]), 'no op of that name'),
        (dict(ops=[(b'mean_abs', [], [])]), 'reads 0 values'),
        (dict(ops=[(b'mean_abs', [0], [(b'x', 0, [1])])]), "field 'x'"),
        (dict(ops=[(b'mean_abs', [0], [(b'\x80', 0, [1])])]), 'ASCII'),
        (dict(ops=[map_op([0], extra=[(b'steps', 3, b'relu')])]), 'twice'),
        (dict(ops=[map_op([0], store=2)]), "'store' is 2"),
        (dict(ops=[map_op([0], store=0)]), 'neither'),
        (dict(ops=[map_op([0], low=np.nan)]), 'NaN'),
        (dict(ops=[map_op([0], steps=b're\xffu')]), 'ASCII'),
        (dict(ops=[map_op([0], steps=b'sqrt')]), "no step 'sqrt'"),
        (dict(ops=[map_op([0], steps=b'relu,')]), "no step ''"),
        (dict(ops=[map_op([0], steps=b'add')]), "'0.a' is missing"),
        (dict(ops=[map_op([0], steps=b','.join([b'relu'] * 25))]), '25 steps'),
        (
            dict(ops=[map_op([0], steps=b'add', extra=[(b'0.a', 1, [1, 2])])]),
            '2 numbers, expected 1 or 3',
        ),
        (dict(ops=[map_op([0], steps=b'add', extra=[(b'0.a', 1, [])])]), 'empty'),
        (dict(ops=[map_op([0], steps=b'add', extra=[(b'0.a', 0, [1])])]), 'holds integers'),
        (dict(ops=[map_op([0], extra=[(b'low', 1, [])])]), 'high'),
        (dict(ops=[map_op([0], low=0, extra=[(b'flip', 1, [0.5])])]), 'neither 0 nor 1'),
        (dict(ops=[map_op([0], low=0, extra=[(b'flip', 1, [0, 1])])]), 'flip has 2'),
        (dict(ops=[PACK, map_op([1])]), 'reads floats'),
        (dict(ops=[map_op([0]), convolution_op()]), 'reads bits'),
        (dict(ops=[PACK, convolution_op(channels=4)]), 'reads 3 channels'),
        (dict(ops=[PACK, convolution_op(words=(8,) * 4)]), 'bits set beyond'),
        (dict(ops=[PACK, convolution_op(words=(1,) * 3)]), 'words has 3'),
        (dict(ops=[PACK, convolution_op(filters=BIG)]), 'too few'),
        (dict(ops=[PACK, convolution_op(channels=BIG)]), 'too large'),
        (dict(ops=[PACK, convolution_op(filters=0)]), "'filters' is 0"),
        (dict(ops=[PACK, convolution_op(groups=2)]), 'divided into 2 groups'),
        (dict(ops=[PACK, convolution_op(kernel=(BIG, BIG))]), 'too large'),
        (dict(ops=[PACK, convolution_op(strides=(0, 1))]), 'strides'),
        (dict(ops=[PACK, convolution_op(dilation=(4, 1))]), 'not fit'),
        (dict(ops=[PACK, convolution_op(padding=(BIG, BIG, 0, 0))]), 'not fit|larger'),
        (dict(ops=[PACK, convolution_op(padding=(60000, 60000, 60000, 60000))]), 'too many|larger'),
        (dict(ops=[PACK, convolution_op(thresholds=[1, 2])]), 'holds 2 integers'),
        (dict(ops=[PACK, convolution_op(thresholds=[2**40])]), 'thresholds'),
        (
            dict(ops=[(b'pool', [0], geometry((5, 5)) + [(b'maximum', 0, [1])])]),
            'larger than the padded image',
        ),
        (
            dict(ops=[(b'pool', [0], geometry(padding=(2, 0, 0, 0)) + [(b'maximum', 0, [1])])]),
            'smaller than the kernel',
        ),
        (
            dict(
                ops=[
                    (b'pool', [0], geometry((0, 0), padding=(0, 0, 1, 0)) + [(b'maximum', 0, [1])])
                ]
            ),
            'no padding',
        ),
        (dict(ops=[(b'pool', [0], geometry((2, 2), (5, 1), (0, 1, 0, 0))[:2])]), 'padding'),
        (
            dict(ops=[(b'reshape', [0], [(b'shape', 0, [5, 1, 1])])]),
            '48 values do not have the shape',
        ),
        (dict(ops=[(b'reshape', [0], [(b'shape', 0, [-1, -1, 1])])]), 'more than one'),
        (dict(ops=[(b'reshape', [0], [(b'shape', 0, [0, 1, 1])])]), 'is 0'),
        (
            dict(ops=[(b'reshape', [0], [(b'shape', 0, [-1, 2**27, 2**27])])]),
            'do not have the shape',
        ),
        (
            dict(
                ops=[
                    map_op([0]),
                    (b'reshape', [0], [(b'shape', 0, [4, 4, 3])]),
                    map_op([1, 2], steps=b'add_value'),
                ]
            ),
            'adds or multiplies',
        ),
    ],
)
def test_inconsistent(state, message):
    with pytest.raises(ValueError, match=message):
        native.Program.from_state(state_by_hand(**state))


VALUES = [0, 1, 2, 3, 7, 127, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1]
NAMES = [
    b'kernel',
    b'strides',
    b'padding',
    b'dilation',
    b'groups',
    b'filters',
    b'channels',
    b'words',
    b'thresholds',
    b'low',
    b'high',
    b'flip',
    b'steps',
    b'store',
    b'shape',
    b'convolution',
    b'map',
    b'pool',
    b'pack',
    b'reshape',
    b'0.a',
    b'1.b',
]


def mutated(random, state):
    """The bytes of a state after one or two small changes; nearly always with a head that fits
    them again."""
    rest = bytearray(state[HEAD:])
    for _ in range(random.randint(1, 3)):
        kind, at = random.randint(12), random.randint(len(rest))
        if random.randint(
            3
        ):  # near a field's name, type, length and first items, not among the weights
            at = min(
                len(rest) - 1,
                rest.find(NAMES[random.randint(len(NAMES))], at) % len(rest)
                + random.randint(-4, 24),
            )
        if kind == 0:
            rest[at] ^= 1 << random.randint(8)
        elif kind == 1:
            rest[at] = random.randint(256)
        elif kind == 2:
            del rest[at : at + random.randint(1, 20)]
        elif kind == 3:
            rest[at:at] = rest[at : at + random.randint(1, 20)]
        else:
            value, size = VALUES[random.randint(len(VALUES))], int(random.choice([1, 2, 4, 8]))
            rest[at : at + size] = struct.pack('<Q', value)[:size]
        if not rest:
            rest = bytearray(b'\0')
    if random.randint(20) == 0:
        return state[:HEAD] + bytes(rest)
    return with_head(bytes(rest))


def run_mutations(seed, count):
    """Reads and, where they are read, runs mutated states; returns how many ran. Anything but a
    result or a sentence fails."""
    random, ran = np.random.RandomState(seed), 0
    programs = [small_program(100 * seed + i, ops=4, size=(3, 4))[0] for i in range(5)]
    names = native.implementations()
    for index in range(count):
        state = mutated(random, programs[index % len(programs)].state())
        try:
            program = native.Program.from_state(state, implementation=names[index % len(names)])
            inputs = [
                np.ones((2,) + tuple(shape), F) for shape in program.inputs if None not in shape
            ]
            if len(inputs) == len(program.inputs) and sum(x.size for x in inputs) < 1e5:
                if (
                    sum(
                        np.prod(shape)
                        for shape in program.output_shapes(*[x.shape for x in inputs])
                    )
                    < 1e6
                ):
                    program(*inputs)
                    ran += 1
        except (ValueError, MemoryError) as error:
            assert str(error), state
    return ran


@pytest.mark.parametrize('seed', range(4))
def test_mutations(seed):
    assert run_mutations(seed, 2500) > 100
    assert (
        zlib.crc32(b'') == 0
    )  # the checksum that the mutations are given is the one that is checked
