"""What is said of the recovery of an `nc.Record`, in the summary and on cards."""


def share(record):
    """Returns the recovered fraction of a record as text.

    It is '>100 %' for a gain beyond the drop, 'worse' if the metric is worse than right after the
    optimization, 'no drop' if nothing was lost, and 'chance' if the drop may be that.
    """
    if record.drop is not None and record.drop <= 0:
        return 'no drop'
    if record.drop_may_be_chance:
        return 'chance'
    recovered = record.recovered
    if recovered is None:
        return None
    if not 0 <= recovered <= 1:
        return '>100 %' if recovered > 1 else 'worse'
    return f'{100 * recovered:.0f} %'


def epochs(record):
    """Returns the epochs to recover, 'not' so far, or None where nothing was lost."""
    if record.drop is None or record.drop <= 0:
        return None
    if record.epochs_to_recover is None and record.epochs:
        return 'not'
    return record.epochs_to_recover


def chance(record):
    """Says that a drop may be chance, and how the metric has changed instead of its share.

    Returns:
        str: a sentence; None if the drop is none, or is larger than chance.
    """
    if not record.drop_may_be_chance:
        return None
    worse = (record.metric_now - record.metric_before) * (-1 if record.larger_is_better else 1)
    now = f'{abs(worse):.2g} {"better than" if worse < 0 else "worse than"}' if worse else 'as'
    return (
        f'The drop of {_who(record)} ({record.drop:.2g}) is within the standard error of '
        f'the held-out metric ({record.error_after:.2g}) and may be chance, and so may the share '
        f'that is recovered. The metric is now {now} before.'
    )


def improving_before(record):
    """Says what else `recovered` counts if the metric was still improving before an optimization.

    Returns:
        str: a sentence; None if the metric was not improving, if that is not known, or if no share
            is said: nothing was lost, or the drop may be chance.
    """
    lost = record.drop is not None and record.drop > 0
    if not record.was_improving or not lost or record.drop_may_be_chance:
        return None
    at, metric = record.curve_before[0]
    return (
        f'Training was still improving before {_who(record)} (held-out metric {metric:.4g} '
        f'at {at:,} samples, {record.metric_before:.4g} at {record.samples:,}), so "recovered" '
        'also counts what training alone would have gained'
    )


def improving(record, baseline):
    """Returns `improving_before` and a comparison with a run without optimizations.

    Args:
        record (nc.Record): of the optimization.
        baseline (nc.Baseline): the held-out metric of a run without optimizations, or None.
    """
    at = record.curve[-1][0] if record.curve else record.samples
    alone = baseline and baseline.at(at)
    compared = None
    if alone is not None and record.metric_now is not None:
        compared = f'baseline {alone:.4g}, this run {record.metric_now:.4g}, both at {at:,} samples'
    said = improving_before(record)
    if said is None:
        return compared and f'{_who(record)}: {compared}.'
    if compared is not None:
        return f'{said}: {compared}.'
    if baseline is not None:
        return f'{said}; the baseline was not measured at {at:,} samples.'
    return said + '. A run without optimizations, given as baseline=, tells the two apart.'


def _who(record):
    """Returns which optimization: a run may have several of one class."""
    return f'{record.optimization}(epoch={record.epoch})'
