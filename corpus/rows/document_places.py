"""Where documents begin in rows, and each token's place in its document."""

import numpy as np

from corpus.rows.packing import Frame


def begins_of(ids: np.ndarray, frame: Frame) -> np.ndarray:
    """Whether a document begins at each token, bool [n, L]: at every CLS, or at the row's start and after every SEP."""
    if frame.cls is not None:
        return ids == frame.cls
    begins = np.ones(ids.shape, dtype=bool)
    begins[:, 1:] = ids[:, :-1] == frame.sep
    return begins


def document_places(begins: np.ndarray, is_real: np.ndarray) -> dict[str, np.ndarray]:
    """Each token's document in its row and place in that document, int64 [n, L]; `begins` is true at its start."""
    columns = np.arange(begins.shape[1])
    first = np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
    documents = np.cumsum(begins, axis=1, dtype=np.int64) - 1
    return {"document_ids": np.where(is_real, documents, -1), "position_ids": np.where(is_real, columns - first, 0)}
