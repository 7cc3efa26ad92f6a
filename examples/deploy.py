"""Trains the network of `make demo`, writes it as one ONNX file, and runs that file as a machine
without CNTK would.

    .venv/bin/python examples/deploy.py
"""
import os

import netopt_callbacks as nc  # before cntk: it keeps CNTK from warning of newer systems
import numpy as np

import digits

images, labels = digits.digits()
_, session = digits.train(
    nc.training_session,
    images,
    labels,
    epoch_size=digits.TRAIN.stop,
    data=(images[digits.HELD_OUT], labels[digits.HELD_OUT]),
    callbacks=[
        nc.BinarizeConvolution(epoch=7, filter_function=lambda layer: layer.name == 'second_conv'),
        nc.Lower(),
    ],
)
os.makedirs('runs', exist_ok=True)
print(session.result.export('runs/digits.onnx'))

net = nc.deploy.session('runs/digits.onnx', threads=1)  # from here on nothing of CNTK is needed
(outputs,) = net.run(None, {'features': images[digits.TEST]})
accuracy = np.mean(outputs.argmax(axis=1) == labels[digits.TEST].argmax(axis=1))
print(f'{len(outputs)} digits, {100 * accuracy:.2f}% right')
