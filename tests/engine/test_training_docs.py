"""The example of docs/training.md, run: a UserLearner that says how it goes on over other
Parameters."""
import os
import re

import cntk as C

import netopt_callbacks as nc
from paths import CLONE
from rebuilt_oracle import BATCH, RANK, Plain, halves, parameters_of
from user_script import hidden

GUIDE = os.path.join(CLONE, 'docs', 'training.md')


def example():
    """Returns the class of the guide's one example."""
    with open(GUIDE) as file:
        (snippet,) = re.findall(r'```python\n(.*?)```', file.read(), re.DOTALL)
    names = {}
    exec(snippet, names)
    return names['Momentum']


def test_user_learner_of_the_guide_goes_on_over_the_factors():
    """As one that the test makes over W1 and W2, with the velocities of all others."""
    Momentum, runs = example(), []
    for ours in True, False:
        run = Plain()
        run.kind, run.inner = [(slice(None), Momentum)], [Momentum(run.parameters)]
        run.learners = list(run.inner)
        run.build()
        runs.append(run)
    ours, plain = runs
    optimization = nc.FactorDense(
        epoch=1, rank=RANK, factor_function=halves, filter_function=hidden
    )
    with nc.attach(ours.trainer, [optimization], epoch_size=5 * BATCH):
        ours.train(12)
    plain.train(5)
    old, W = plain.inner[0].velocity, plain.W.uid
    factors = [C.Parameter(value.shape, init=value) for value in halves(plain.W.value)]
    place = [p.uid for p in plain.parameters].index(W)
    plain.parameters[place : place + 1] = factors
    new = Momentum(plain.parameters)
    new.velocity.update({uid: value for uid, value in old.items() if uid != W})
    plain.inner = plain.learners = [new]
    plain.over(factors)
    plain.build()
    plain.train(7)
    named = {p.name: p for p in ours.trainer.loss_function.parameters}
    mine = [named['W1'], named['W2']] + [p for p in ours.parameters if p.uid != ours.W.uid]
    assert [p.value.tobytes() for p in mine] == [
        p.value.tobytes()
        for p in factors + [p for p in plain.parameters if p.uid not in [f.uid for f in factors]]
    ]
    assert ours.losses == plain.losses and len(parameters_of(new)) == 7
