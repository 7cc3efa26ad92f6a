"""What the native ops inside CNTK share: they evaluate NumPy arrays, and have no gradient."""
import contextlib
import threading

from cntk.ops.functions import UserFunction

_refused = threading.local()  # `message`: of what `backward` raised on this thread


@contextlib.contextmanager
def told_in_full():
    """Context for a call of C++ that trains: raises in full what a native op has refused it with.

    Of an error in Python, C++ passes on the type alone.
    """
    _refused.message = None
    try:
        yield
    except RuntimeError:
        if _refused.message is None:
            raise
        raise RuntimeError(_refused.message) from None


class NativeOp(UserFunction):
    """A native op as a CNTK Function; a subclass computes `_run`, or another `forward`.

    Attributes:
        block_op_name (str): of the block around it.
        state (dict): of the native object, its arrays `scale`, `bias` and `threshold` among it.
        weights_shape (tuple of int): as the trained layer had them.
    """

    block_op_name: str

    def __init__(self, operands, name=''):
        super().__init__(operands, as_numpy=True, name=name)

    def forward(self, argument, device=None, outputs_to_retain=None):
        if isinstance(argument, list):
            return None, [self._run(steps) for steps in argument]
        return None, self._run(argument)

    def backward(self, state, root_gradients, variables=None):
        _refused.message = (
            f"{self.block_op_name} '{self.name}' is native and for evaluation only: it has no "
            "gradient. Train the model that was lowered (result.model) and lower it again"
        )
        raise RuntimeError(_refused.message)

    def _run(self, values):
        """Returns the result for an array [..., ...shape of the operand]; the leading axes are
        batch and steps."""
        raise NotImplementedError
