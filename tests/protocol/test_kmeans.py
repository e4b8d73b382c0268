"""k-means: the same as Lloyd's method on pooled rows, from the same start."""

import numpy as np
import pytest
from sklearn.cluster import KMeans as PooledKMeans

from ceiba_protocol.errors import ClusterTooSmall
from ceiba_protocol.statistics.kmeans import REACH, KMeans
from tests.support.fitting import by_hospital, column, fit, heart, heart_rows

NAMES = ("age", "max_heart_rate", "st_depression")


def test_centres_are_lloyds_on_the_pooled_rows() -> None:
    rows = heart_rows()
    ((found,),) = fit(KMeans(columns=tuple(map(column, NAMES)), clusters=3), heart(), by_hospital(rows))
    pooled = rows[list(NAMES)].dropna().to_numpy(dtype=float)
    mean, spread = pooled.mean(axis=0), pooled.std(axis=0)
    scaled = (pooled - mean) / spread
    axis = np.linalg.eigh(np.cov(scaled.T))[1][:, -1]
    axis *= np.sign(axis.sum())
    start = np.outer([-REACH, 0, REACH], axis) * np.sqrt(3)
    wanted = PooledKMeans(3, init=start, n_init=1, tol=0, algorithm="lloyd").fit(scaled)
    np.testing.assert_allclose(found["centres"], wanted.cluster_centers_ * spread + mean, rtol=1e-6)
    assert found["counts"] == np.bincount(wanted.labels_).tolist()
    np.testing.assert_allclose([found["within"], *found["spreads"]], [wanted.inertia_, *spread], rtol=1e-6)


def test_a_small_cluster_is_refused() -> None:
    rows = heart_rows()
    with pytest.raises(ClusterTooSmall):
        fit(KMeans(columns=(column("age"), column("cholesterol")), clusters=40), heart("sensitive"), by_hospital(rows))
