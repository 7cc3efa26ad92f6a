"""The manual's section on binarization, run as printed with the import changed; and netopt's
own tests."""
import importlib.util
import os

import cntk as C
import numpy as np
import pytest
from sklearn.datasets import load_digits

import netopt_callbacks as nc
from binary_networks import blocks

USING_BINARIZATION = '''
import netopt_callbacks.quantization as cq

# define a new training function. Note: this function accepts a network as an input parameter.
def do_train_and_test(model):
    reader_train = create_reader(train_file, True, input_dim, num_output_classes)
    reader_test = create_reader(test_file, False, input_dim, num_output_classes)
    train_test(reader_train, reader_test, model)

# create convolution network.
z = create_model(x)

# define a filter so that we don't include the first convolution layer in the optimization.
def conv_filter(x):
    return x.name != 'first_conv'

# optimized the network with binarization and native implementation.
# z is the original network with convolution layers.
# do_train_and_test is a function provided for training the network during the optimization.
# conv_filter selects the convolution layers that need to be optimized.
optimized_z = cq.binarize_convolution(z, do_train_and_test, conv_filter)
'''

SEPARATE_TRAINING_STEP = '''
# perform the binarization step only. This can be performed right after network creation
# and requires no training on the original network. filter select the convolution layer or layers
# to which the binarization is applied.
binz = cq.convert_to_binary_convolution(z, filter)

# perform training on binz network
# e.g. def do_train(binz)

# Convert the binarized model into Halide implementations
native_binz = cq.convert_to_native_binary_convolution(binz)
'''


class Tutorial:
    """CNTK 103D, scaled to scikit-learn's digits: the names the manual takes from it.

    `create_reader`, `train_test`, `create_model`, `x`, `train_file`, `test_file`, `input_dim` and
    `num_output_classes` are the tutorial's; the manual's `filter` (Python's builtin, as printed) is
    supplied as a filter over layers.
    """

    def __init__(self, folder):
        self.x = C.input_variable((1, 8, 8))
        self.y = C.input_variable(10)
        self.errors = []
        images, labels = load_digits(return_X_y=True)
        self.images = (
            (images * 16).astype(np.float32).reshape(-1, 1, 8, 8)
        )  # up to 256, as MNIST's bytes
        self.labels = np.eye(10, dtype=np.float32)[labels]
        self.names = dict(
            create_reader=self.create_reader,
            train_test=self.train_test,
            create_model=self.create_model,
            x=self.x,
            train_file=self._written(folder, 'train.txt', slice(0, 640)),
            test_file=self._written(folder, 'test.txt', slice(640, 900)),
            input_dim=64,
            num_output_classes=10,
            filter=lambda block: block.name != 'first_conv',
        )

    def _written(self, folder, name, rows):
        path = os.path.join(str(folder), name)
        with open(path, 'w') as file:
            for image, label in zip(self.images[rows], self.labels[rows]):
                file.write(
                    '|labels {} |features {}\n'.format(
                        ' '.join(f'{v}' for v in label), ' '.join(f'{v}' for v in image.ravel())
                    )
                )
        return path

    def create_reader(self, path, is_training, input_dim, num_label_classes):
        streams = C.io.StreamDefs(
            labels=C.io.StreamDef(field='labels', shape=num_label_classes, is_sparse=False),
            features=C.io.StreamDef(field='features', shape=input_dim, is_sparse=False),
        )
        return C.io.MinibatchSource(
            C.io.CTFDeserializer(path, streams),
            randomize=is_training,
            max_sweeps=C.io.INFINITELY_REPEAT if is_training else 1,
        )

    def create_model(self, features):
        with C.layers.default_options(init=C.glorot_uniform(), activation=C.relu):
            h = C.layers.Convolution2D((5, 5), 8, pad=True, name='first_conv')(features)
            h = C.layers.Convolution2D((5, 5), 16, strides=(2, 2), pad=True, name='second_conv')(h)
            return C.layers.Dense(10, activation=None, name='classify')(h)

    def train_test(self, train_reader, test_reader, model_func):
        model = model_func(self.x / 255)
        criterion = C.cross_entropy_with_softmax(model, self.y), C.classification_error(
            model, self.y
        )
        learner = C.sgd(model.parameters, C.learning_parameter_schedule(0.2))
        trainer = C.Trainer(model, criterion, [learner])
        for reader, step, count in (
            (train_reader, trainer.train_minibatch, 150),
            (test_reader, trainer.test_minibatch, 4),
        ):
            streams = {self.y: reader.streams.labels, self.x: reader.streams.features}
            results = [step(reader.next_minibatch(64, input_map=streams)) for _ in range(count)]
        self.errors.append(float(np.mean(results)))


@pytest.fixture
def tutorial(tmp_path):
    C.cntk_py.set_fixed_random_seed(1)
    return Tutorial(tmp_path)


def test_using_binarization_runs_as_printed(tutorial):
    names = dict(tutorial.names)
    exec(USING_BINARIZATION, names)
    optimized = names['optimized_z']
    assert [block.name for block in blocks(optimized, 'BinaryConvolveOp')] == ['second_conv']
    assert optimized.first_conv.op_name == 'Convolution'
    # Trained from nothing on 640 digits: a guess would be wrong in 90 of 100.
    assert tutorial.errors[0] < 0.5
    images = tutorial.images[640:900] / np.float32(255)
    predicted = optimized.eval(images).argmax(axis=1)
    wrong = np.mean(predicted != tutorial.labels[640:900].argmax(axis=1))
    assert (
        abs(wrong - tutorial.errors[0]) < 0.02
    )  # the tutorial's average is over its own minibatches


def test_separate_training_step_runs_as_printed(tutorial):
    names = dict(tutorial.names)
    exec(USING_BINARIZATION.split('# optimized the network')[0], names)
    exec(SEPARATE_TRAINING_STEP, names)
    assert [block.name for block in blocks(names['binz'], 'BinaryConvolution')] == ['second_conv']
    assert [block.name for block in blocks(names['native_binz'], 'BinaryConvolveOp')] == [
        'second_conv'
    ]
    images = tutorial.images[:20]
    np.testing.assert_array_equal(names['native_binz'].eval(images), names['binz'].eval(images))


def test_without_a_training_function_the_error_names_the_other_way():
    x = C.input_variable((1, 8, 8))
    with pytest.raises(TypeError, match='train_function.*convert_to_binary_convolution'):
        nc.quantization.binarize_convolution(C.layers.Convolution2D((3, 3), 4)(x), None)


@pytest.mark.parametrize('strides, pad', [(1, False), (2, True), ((1, 2), True)])
def test_binary_convolution_builds_a_layer_as_netopt_does(strides, pad):
    x = C.input_variable((3, 9, 8))
    layer = nc.quantization.binary_convolution(
        (3, 2), num_filters=4, channels=3, pad=pad, strides=strides
    )(x)
    plain = C.layers.Convolution2D((3, 2), 4, strides=strides, pad=pad)(x)
    assert layer.shape == plain.shape
    (block,) = blocks(layer, 'BinaryConvolution')
    assert block.name == 'BinaryConvolution' and [p.name for p in layer.parameters] == ['filter']
    values = np.random.RandomState(0).randn(3, 3, 9, 8).astype(np.float32)
    native = nc.quantization.convert_to_native_binary_convolution(layer)
    np.testing.assert_array_equal(native.eval(values), layer.eval(values))
    with pytest.raises(ValueError, match='height and width'):
        nc.quantization.binary_convolution((3,), 4, 3)


@pytest.fixture
def netopt_s_own_tests(tmp_path):
    """The released test file with its import changed, and nothing else."""
    folder = os.path.join(os.path.dirname(C.__file__), 'contrib', 'netopt', 'test')
    with open(os.path.join(folder, 'quantization_test.py')) as file:
        text = file.read()
    changed = text.replace(
        'import cntk.contrib.netopt.quantization as qc',
        'import netopt_callbacks\nimport netopt_callbacks.quantization as qc',
    )
    changed = changed.replace(
        'C.contrib.netopt.native_convolve', 'netopt_callbacks.native_convolve'
    )
    assert changed.count('netopt_callbacks') == 3 and 'contrib' not in changed
    path = tmp_path / 'netopt_quantization_test.py'
    path.write_text(changed)
    spec = importlib.util.spec_from_file_location('netopt_quantization_test', str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_netopt_s_own_tests_pass(netopt_s_own_tests, tmpdir):
    assert [name for name in dir(netopt_s_own_tests) if name.startswith('test_')] == [
        'test_binarization',
        'test_native_convolution',
    ]
    assert nc.native_convolve_function_registered, 'the second test would skip itself'
    netopt_s_own_tests.test_binarization()
    netopt_s_own_tests.test_native_convolution(tmpdir)
