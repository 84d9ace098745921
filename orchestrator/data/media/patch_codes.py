"""Visual tokens: a code for each patch of a picture.

BEiT (Bao et al. 2022, section 2.1) takes the codes of a discrete variational autoencoder that was
trained on 250 million pictures. Deliberate deviation: here the code of a patch is the nearest of K
centers that k-means found among the patches of the training pictures. That needs neither a
pretrained model nor a second training, but a code describes the colors and edges of one patch and
nothing around it.

Legend: B batch, C channels, P patches, W values of a patch (C times its pixels), K codes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from orchestrator.arrays import Float32Array, IntArray
from orchestrator.errors import InputError

CODEBOOK = "codebook.safetensors"
CENTERS = "centres"  # name of the tensor on disk


def patches_of(pixels: Float32Array, patch_size: int) -> Float32Array:
    """Cut pictures [B, C, height, width] into patches in reading order, [B, P, W]."""
    B, C, height, width = pixels.shape
    rows, columns = height // patch_size, width // patch_size
    grid = pixels.reshape(B, C, rows, patch_size, columns, patch_size)
    return grid.transpose(0, 2, 4, 1, 3, 5).reshape(B, rows * columns, -1)


@dataclass(frozen=True, eq=False)
class Codebook:
    """Cluster centers of patches.

    Attributes:
        centers: float32 [K, W].
    """

    centers: Float32Array

    @classmethod
    def fit(cls, patches: Float32Array, codes: int, seed: int) -> "Codebook":
        """Find centers by k-means.

        Args:
            patches: Some patches of training pictures, [N, W].
            codes: K.
            seed: seed of the initial centers.

        Raises:
            InputError: There are fewer different patches than codes.
        """
        from sklearn.cluster import KMeans

        different = len(np.unique(patches, axis=0))
        if different < codes:
            raise InputError(
                f"{different} different patches cannot have num_codes {codes}. Lower num_codes of "
                "the target mim, or give more pictures."
            )
        found = KMeans(codes, n_init=1, random_state=seed).fit(patches.astype(np.float64))
        return cls(found.cluster_centers_.astype(np.float32))

    def codes(self, pixels: Float32Array, patch_size: int) -> IntArray:
        """Return the code of each patch of pictures [B, C, height, width]: int64 [B, P]."""
        patches = patches_of(pixels, patch_size)
        # |x - c|^2 without |x|^2, which is the same for all centers
        distances = (self.centers**2).sum(axis=1) - 2 * patches @ self.centers.T
        nearest: IntArray = distances.argmin(axis=-1)
        return nearest

    def save(self, folder: Path) -> None:
        """Write the centers."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({CENTERS: self.centers}, folder / CODEBOOK)

    @classmethod
    def load(cls, folder: Path) -> "Codebook":
        """Read the centers."""
        return cls(load_file(folder / CODEBOOK)[CENTERS])
