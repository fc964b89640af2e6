"""Whether a dictionary is the true one, where the truth is known: synthetic activations.

The metrics are those of SynthSAEBench (arXiv:2602.14687), as SAELens 6.54 evaluates it.
"""

import numpy as np
from jaxtyping import Bool, Float, Int64
from torch import Tensor

MOST_WORK = 5e11
"""Latents times features times the fewer of both up to which `mcc` is matched: about a minute."""


class GroundTruth:
    """Each latent as a detector of the true feature whose direction is nearest to its own.

    Near is a large absolute cosine between decoder row and direction; of equal ones the first.

    Example:
        >>> features = torch.eye(3)
        >>> truth = GroundTruth(features[:2], features)
        >>> fires = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> truth.add(fires, torch.tensor([[True, False, True], [True, False, False]]))
        >>> found = truth.metrics()
        >>> [found[name] for name in ("mcc", "uniqueness", "precision", "recall", "f1", "true_l0")]
        [1.0, 1.0, 0.5, 0.5, 0.5, 1.5]
    """

    def __init__(self, w_dec: Float[Tensor, "m d"], features: Float[Tensor, "features d"]) -> None:
        """Find each latent's feature.

        Args:
            w_dec: decoder rows.
            features: true directions, on the same device.
        """
        rows, directions = (
            one / one.norm(dim=1, keepdim=True).clamp(min=1e-8) for one in (w_dec, features)
        )
        self._cosine = (rows @ directions.T).abs()
        self._nearest = self._cosine.argmax(dim=1)
        self._both = self._nearest.new_zeros(len(w_dec))
        self._fired, self._true = self._both.clone(), self._both.clone()
        self._active = self._both.new_zeros(())
        self._tokens = 0

    def add(self, latents: Float[Tensor, "n m"], truth: Bool[Tensor, "n features"]) -> None:
        """Add tokens.

        Args:
            latents: what the dictionary makes of them; those that are not 0 fire.
            truth: the features that they sum, on the same device.
        """
        fires, true = latents != 0, truth[:, self._nearest]
        self._both += (fires & true).sum(dim=0)
        self._fired += fires.sum(dim=0)
        self._true += true.sum(dim=0)
        self._active += truth.sum()
        self._tokens += len(truth)

    def metrics(self) -> dict[str, float]:
        """By the names of `records.METRICS`; mcc is left out where matching takes too long.

        A latent's precision, recall and f1 are 0 where they divide by nothing.
        """
        precision, recall = _share(self._both, self._fired), _share(self._both, self._true)
        f1 = _share(2 * self._both, self._fired + self._true)
        found = {
            "f1": f1.mean().item(),
            "precision": precision.mean().item(),
            "recall": recall.mean().item(),
            "uniqueness": len(self._nearest.unique()) / len(self._nearest),
            "true_l0": self._active.item() / self._tokens,
        }
        m, features = self._cosine.shape
        if m * features * min(m, features) <= MOST_WORK:
            # imported here: a fifth of a second, which trials without a known truth need not spend
            from scipy.optimize import linear_sum_assignment

            cosine = self._cosine.cpu().double().numpy()
            found["mcc"] = float(np.mean(cosine[linear_sum_assignment(cosine, maximize=True)]))
        return found


def _share(count: Int64[Tensor, " m"], of: Int64[Tensor, " m"]) -> Float[Tensor, " m"]:
    """One count over another, 0 where both are 0."""
    return count.double() / of.clamp(min=1)
