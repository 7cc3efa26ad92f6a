"""Exported files of every kind with inputs and what they give, for `deploy_host.py`: pairs
NAME.onnx and NAME.npz."""
import numpy as np
import onnx

from netopt_callbacks import deploy, lowering, native
from netopt_callbacks.exporting import body
from segment_networks import binarized
from test_deploy import small
from test_deploy_body import ROWS, model_of, near_the_middle, random_program
from test_deploy_floats import chain, lowered
from test_deploy_short import residual_blocks, wrong_for_three

IMAGES = 1000
PROGRAMS = 4 * len(ROWS)
BLOCKS = (16, 64)  # channels
FILES = PROGRAMS + len(BLOCKS) + 7


def put(folder, name, feed, expected, exact):
    np.savez(
        str(folder / (name + '.npz')),
        exact=exact,
        **dict(
            [('in:' + key, value) for key, value in feed.items()]
            + [('out:' + key, value) for key, value in expected.items()]
        ),
    )


def one(folder, name, ops, inputs, output, x):
    program = native.Program(ops, inputs, [output])
    expected = program(x)
    model = model_of(program.state(), inputs['x'], expected.ndim, True)
    model.functions.extend([body.function('Segment7', program.state())])
    model.ir_version = 8
    onnx.save(model, str(folder / (name + '.onnx')))
    put(folder, name, {'x': x}, {'y': expected}, True)


def write_files(folder):
    """Writes all of them: networks, programs that begin with each of the ops, with channels in
    blocks, and whose results are in the middle of two numbers."""
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
    for seed in range(PROGRAMS):
        ops, inputs, output, x = random_program(seed, ROWS[seed % len(ROWS)])
        one(folder, f'program{seed}', ops, inputs, output, x)
    ops, x = near_the_middle([2.0**-60, -(2.0**-60)])
    one(folder, 'middle', ops, {'x': (2, 1, 1)}, 'y', x)
    for name, (ops, shape, x) in [
        ('short', wrong_for_three(4)),
        ('long', wrong_for_three(5)),
    ] + [(f'blocks{channels}', residual_blocks(channels)) for channels in BLOCKS]:
        one(folder, name, ops, {'x': shape}, 'y', x)
