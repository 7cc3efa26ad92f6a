"""Exported files of every kind with inputs and what they give, for `deploy_host.py`: pairs
NAME.onnx and NAME.npz."""
import numpy as np
import onnx

from netopt_callbacks import deploy, lowering, native
from segment_networks import binarized
from test_deploy import small
from test_deploy_body import ROWS, fed, model_of, near_the_middle, random_program
from test_deploy_body_values import WRONG_COUNTS, changed, program_of_several, sums_of
from test_deploy_floats import chain, lowered
from test_deploy_short import residual_blocks, two_products_in_a_sum, wrong_for_three
from test_deploy_values import two_heads

IMAGES = 1000
PROGRAMS = 4 * len(ROWS)
PROGRAMS_OF_SEVERAL = 2 * len(ROWS)
BLOCKS = (16, 64)  # channels
FILES = PROGRAMS + PROGRAMS_OF_SEVERAL + len(BLOCKS) + len(WRONG_COUNTS) + 10


def put(folder, name, feed, expected, exact, refused=''):
    np.savez(
        str(folder / (name + '.npz')),
        exact=exact,
        refused=refused,
        **dict(
            [('in:' + key, value) for key, value in feed.items()]
            + [('out:' + key, value) for key, value in expected.items()]
        ),
    )


def one(folder, name, ops, inputs, outputs, *values):
    program = native.Program(ops, inputs, outputs)
    expected = program(*values)
    onnx.save(model_of(program.state(), True, function=True), str(folder / (name + '.onnx')))
    given = {f'y{index}': y for index, y in enumerate(expected if len(outputs) > 1 else [expected])}
    put(folder, name, fed(*values), given, True)


def refused(folder, name, model, said, values):
    onnx.save(model, str(folder / (name + '.onnx')))
    put(folder, name, fed(*values), {'y0': np.zeros(0, np.float32)}, True, said)


def write_files(folder):
    """Writes all of them: networks, programs that begin with each of the ops, of one input and
    output and of several, with channels in blocks, whose results are in the middle of two numbers,
    and what the library refuses."""
    x, model = small(classes=10)
    binary = binarized(model)
    images = np.random.RandomState(8).randn(IMAGES, 3, 9, 8).astype(np.float32)
    for name, network in (
        ('float', model),
        ('binary', binary),
        ('alone', lowering.lower_binary_layers(binary)),
        ('floats', lowered(chain)),
    ):
        exported = deploy.export(network, str(folder / (name + '.onnx')), data=images[:100])
        put(
            folder,
            name,
            {exported.inputs[0]: images},
            {exported.outputs[0]: network.eval({network.arguments[0]: images})},
            False,
        )
    network = two_heads()
    exported = deploy.export(network, str(folder / 'heads.onnx'), data=images[:100, :, :6, :5])
    values = np.ascontiguousarray(images[:, :, :6, :5])
    expected = network.eval({network.arguments[0]: values})
    put(
        folder,
        'heads',
        {exported.inputs[0]: values},
        {name: expected[output] for name, output in zip(exported.outputs, network.outputs)},
        False,
    )
    for seed in range(PROGRAMS):
        ops, inputs, output, x = random_program(seed, ROWS[seed % len(ROWS)])
        one(folder, f'program{seed}', ops, inputs, [output], x)
    for seed in range(PROGRAMS_OF_SEVERAL):
        ops, inputs, outputs, values = program_of_several(seed, ROWS[seed % len(ROWS)])
        one(folder, f'several{seed}', ops, inputs, outputs, *values.values())
    state, values, _ = sums_of(3)
    for number, (change, said) in enumerate(WRONG_COUNTS):
        refused(folder, f'count{number}', changed(model_of(state, True), change), said, values)
    said, (x0, x1, x2) = 'input x1 of a segment has a batch of 1, x0 one of 2', values
    refused(folder, 'batch', model_of(state, True), said, [x0, x1[:1], x2])
    ops, x = near_the_middle([2.0**-60, -(2.0**-60)])
    one(folder, 'middle', ops, {'x': (2, 1, 1)}, ['y'], x)
    for name, (ops, shape, x) in [
        ('short', wrong_for_three(4)),
        ('long', wrong_for_three(5)),
        ('products', two_products_in_a_sum(0)),
    ] + [(f'blocks{channels}', residual_blocks(channels)) for channels in BLOCKS]:
        one(folder, name, ops, {'x': shape}, ['y'], x)
