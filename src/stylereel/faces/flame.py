"""FLAME: a head as a mesh of 5023 vertices that shape, expression and pose numbers move, from the files a user has.

Li et al., "Learning a Model of Facial Shape and Expression from 4D Scans" (2017). The model generic_model.pkl (FLAME
2020, FLAME licence) is a pickle of chumpy arrays and is read as data, without chumpy; landmark_embedding.npy (DECA's
folder data) says in which triangles the 68 landmarks are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stylereel.zoo.unpickle import Stub, unpickle, unpickle_npy

SHAPE, EXPRESSION, POSE = 100, 50, 6  # numbers that DECA estimates; pose is two axis-angles, of the head and the jaw
FIRST_EXPRESSION = 300  # column of the model's basis where expression begins


class Flame(nn.Module):
    """Shape, expression and pose to vertices and landmarks, differentiable."""

    def __init__(self, model: Mapping[str, np.ndarray], triangles: np.ndarray, weights: np.ndarray) -> None:
        """model: the arrays of generic_model.pkl; triangles [68], weights [68, 3]: where the landmarks are."""
        super().__init__()
        basis = model["shapedirs"]
        columns = [*range(SHAPE), *range(FIRST_EXPRESSION, FIRST_EXPRESSION + EXPRESSION)]
        parents = model["kintree_table"][0].astype(np.int64)
        self.parents = [-1, *(int(parent) for parent in parents[1:])]
        corners = model["f"].astype(np.int64)[triangles.astype(np.int64)]
        for name, value in {
            "template": model["v_template"],  # [V, 3] metres
            "basis": basis[:, :, columns],  # [V, 3, 150]
            "pose_basis": model["posedirs"].reshape(-1, model["posedirs"].shape[-1]).T,  # [9 (J - 1), 3 V]
            "regressor": model["J_regressor"],  # [J, V]
            "skinning": model["weights"],  # [V, J]
            "landmark_weights": weights,  # [68, 3]
        }.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value, np.float32)))
        self.register_buffer("corners", torch.from_numpy(corners))  # [68, 3] vertices
        self.template: Tensor
        self.basis: Tensor
        self.pose_basis: Tensor
        self.regressor: Tensor
        self.skinning: Tensor
        self.landmark_weights: Tensor
        self.corners: Tensor

    def forward(self, shape: Tensor, expression: Tensor, pose: Tensor) -> Tensor:
        """Vertices [B, V, 3] in metres of shape [B, 100], expression [B, 50], pose [B, 6]; y is up, z to the viewer.

        Linear blend skinning with pose correctives. Neck and eyes stay at rest, as in DECA.
        """
        still = pose.new_zeros(len(pose), 3)
        turns = rotations(torch.stack([pose[:, :3], still, pose[:, 3:], still, still], 1)[:, : len(self.parents)])
        rest = self.template + torch.einsum("bk,vik->bvi", torch.cat([shape, expression], 1), self.basis)
        joints = torch.einsum("jv,bvi->bji", self.regressor, rest)
        bent = (turns[:, 1:] - torch.eye(3, device=pose.device)).flatten(1) @ self.pose_basis
        posed = rest + bent.view_as(rest)
        # Each joint's rotation and place follow from its parent's; a vertex takes the mean of its joints' motions.
        whole, places = [turns[:, 0]], [joints[:, 0]]
        for joint, parent in list(enumerate(self.parents))[1:]:
            whole.append(whole[parent] @ turns[:, joint])
            offset = (joints[:, joint] - joints[:, parent])[..., None]
            places.append(places[parent] + (whole[parent] @ offset)[..., 0])
        rotation, place = torch.stack(whole, 1), torch.stack(places, 1)
        move = place - torch.einsum("bjik,bjk->bji", rotation, joints)
        turned = torch.einsum("vj,bjik,bvk->bvi", self.skinning, rotation, posed)
        return turned + torch.einsum("vj,bji->bvi", self.skinning, move)

    def landmarks(self, vertices: Tensor) -> Tensor:
        """The 68 landmarks [B, 68, 3] on vertices [B, V, 3], iBUG order."""
        return torch.einsum("blki,lk->bli", vertices[:, self.corners], self.landmark_weights)


def rotations(turns: Tensor) -> Tensor:
    """Axis-angles [..., 3] in radians to rotation matrices [..., 3, 3] (Rodrigues), with a gradient at zero."""
    angle = (turns.square().sum(-1) + 1e-16).sqrt()[..., None]
    x, y, z = (turns / angle).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    sine, cosine = angle.sin()[..., None], angle.cos()[..., None]
    return torch.eye(3, device=turns.device) + sine * cross + (1 - cosine) * cross @ cross


def load_flame(model: str | Path, embedding: str | Path) -> Flame:
    """FLAME from generic_model.pkl and landmark_embedding.npy; nothing in them is run.

    Raises ValueError, naming the file and what it lacks.
    """
    content = unpickle(model)
    names = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")
    arrays = {name: _array(content.get(name)) if isinstance(content, dict) else None for name in names}
    if lacking := [name for name, value in arrays.items() if value is None]:
        raise ValueError(f"{model} is no FLAME model: it lacks {', '.join(lacking)}.")
    known = {name: value for name, value in arrays.items() if value is not None}
    if known["shapedirs"].ndim != 3 or known["shapedirs"].shape[2] < FIRST_EXPRESSION + EXPRESSION:
        raise ValueError(f"{model} has {known['shapedirs'].shape[-1]} basis vectors; give FLAME 2020, which has 400.")
    places = unpickle_npy(embedding)
    if isinstance(places, np.ndarray) and places.dtype == object and places.size == 1:
        places = places.item()
    triangles, weights = (
        _array(places.get(f"full_lmk_{name}")) if isinstance(places, dict) else None
        for name in ("faces_idx", "bary_coords")
    )
    if triangles is None or weights is None or triangles.size != 68 or weights.size != 204:
        raise ValueError(f"{embedding} has no positions of the 68 landmarks; give the file of DECA's folder data.")
    try:
        return Flame(known, triangles.reshape(68), weights.reshape(68, 3)).eval()
    except (IndexError, ValueError, RuntimeError) as error:
        raise ValueError(f"The arrays in {model} and {embedding} do not fit each other: {error}.") from error


MAX_DEPTH = 4  # of arrays in chumpy's arrays
MAX_NUMBERS = 1 << 24  # in a sparse matrix; FLAME's has 5 by 5023


def _array(value: Any, depth: int = 0) -> np.ndarray | None:
    """Numbers of a NumPy array, a tensor, a chumpy array or a sparse SciPy matrix, None for anything else."""
    if isinstance(value, Tensor):
        return value.numpy()
    if depth > MAX_DEPTH:
        return None
    if not isinstance(value, Stub):
        return value if isinstance(value, np.ndarray) else None
    state = value.state if isinstance(value.state, dict) else {}
    if value.module.startswith("chumpy"):
        return _array(state.get("x"), depth + 1)
    if value.module.startswith("scipy.sparse"):
        from scipy.sparse import csc_matrix, csr_matrix

        parts = [state.get(name) for name in ("data", "indices", "indptr")]
        shape: Any = state.get("_shape") or state.get("shape")
        kind = {"csc_matrix": csc_matrix, "csr_matrix": csr_matrix}.get(value.name)
        numbers = isinstance(shape, tuple) and len(shape) == 2 and all(type(length) is int for length in shape)
        if kind and numbers and all(isinstance(part, np.ndarray) for part in parts):
            if not 0 <= math.prod(shape) <= MAX_NUMBERS:  # a matrix of zeros of any size takes no room in a file
                return None
            try:
                return kind(tuple(parts), shape=shape).toarray()
            except (ValueError, TypeError, IndexError):
                return None
    return None
