"""Says before training where CNTK forgets what an exact run needs."""
import warnings

from . import random_state


def warn(whole, changes, has_trained, window_unknown):
    """Warns of each such thing.

    Args:
        whole (cntk.Function): the network that is taken over.
        changes (bool): whether it will be changed later.
        has_trained (bool): whether its trainer has trained already.
        window_unknown (bool): whether it did so before anybody watched its progress writers.
    """
    if has_trained and random_state.stateful_blocks(whole):
        warnings.warn(
            'this trainer has trained a block with random state (cntk.layers.Dropout is one), '
            'and CNTK forgets the state of such a block if a trainer is rebuilt: its random '
            'numbers start from the beginning. Attach before the first minibatch for an '
            'exact run'
        )
    if window_unknown:
        warnings.warn(
            'this trainer trained before its progress writers were under our eyes, and CNTK '
            'does not tell what they have summed up since their last summary: if a progress '
            'window is open now, its next summary counts all its samples, but the loss and '
            'metric only from here on. Call trainer.summarize_training_progress() first, or '
            'attach before the first minibatch'
        )
    if changes and random_state.estimates(whole):
        warnings.warn(
            'this network estimates the inclusion frequencies of a sampled softmax '
            '(random_sample_inclusion_frequency with allow_duplicates=False): CNTK draws for '
            'this estimate once for each trainer, so that from each optimization on, and after '
            'a resume, the losses differ from those of one trainer by what the estimate is '
            'uncertain. With allow_duplicates=True they are computed and equal'
        )
    if changes and random_state.draws_normal(whole):
        warnings.warn(
            'this network draws from a normal distribution (C.random.normal): CNTK saves how '
            'many numbers were drawn, and not where its generator is, so that from each '
            'optimization on, and after a resume (as in plain CNTK), it draws other numbers of '
            'the same distribution. Uniform, Gumbel and Bernoulli numbers go on exactly'
        )
