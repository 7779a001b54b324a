"""The released detector: an isolation forest over one number a client."""

from collections.abc import Sequence

import numpy as np
from sklearn.ensemble import IsolationForest


def flagged_by_forest(losses: Sequence[float], random_state: int = 999) -> list[int]:
    """Return the clients that the released detector takes for outliers.

    The features are (0, loss), with a constant in front, as released: half of the random splits
    fall on it and split nothing. Scores of a few clients lie near the limit, so that verdicts
    depend on the seed and the version of scikit-learn.

    Args:
        losses: Of each client.
        random_state: Of the forest.

    >>> flagged_by_forest([1.0, 1.1, 0.9, 8.0])
    [3]
    """
    features = np.array([(0.0, loss) for loss in losses])
    forest = IsolationForest(
        max_samples=len(losses), random_state=random_state, contamination="auto"
    )
    return [int(k) for k in np.flatnonzero(forest.fit_predict(features) == -1)]
