"""Dense truth about the world's portraits: depth, surface normals, and the flow between two frames of a person.

All of it belongs to the triangles that `draw` shades, at the centres of the pixels, with perspective-correct weights.
Camera coordinates are decimetres: x to the image's right, y down, z towards the viewer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stylereel.world import geometry as g
from stylereel.world.draw import (
    _DISTANCE,
    PIVOT,
    ZOOM,
    Portrait,
    _buffers,
    _place,
    _project,
    _rasterise,
    draw,
    rotations,
)
from stylereel.world.factors import INDEX, MOTION

_NEARER = 0.06  # dm: a surface this much nearer than a point hides it


class Truth(NamedTuple):
    """depth: float32 [H, W], distance from the camera along its axis in dm, infinite on the backdrop;
    normals: float32 [H, W, 3], unit vectors in camera coordinates that face the viewer, 0 on the backdrop.
    """

    depth: np.ndarray
    normals: np.ndarray


class Flow(NamedTuple):
    """flow: float32 [H, W, 2], pixels right and down from frame a to frame b; visible: bool [H, W], whether the
    surface at a pixel of a is visible in b, too.
    """

    flow: np.ndarray
    visible: np.ndarray


class Surface(NamedTuple):
    """The surface at a frame's pixels: the portrait; vertices in camera coordinates [V, 3] and on the
    screen [V, 2]; the buffers of the finer grid; and for each pixel that is not backdrop its row, column, corners
    [N, 3] and weights [N, 3]."""

    portrait: Portrait
    camera: np.ndarray
    screen: np.ndarray
    fine_depth: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    corners: np.ndarray
    weights: np.ndarray

    @property
    def covers(self) -> np.ndarray:
        """bool [H, W]: where it is seen; the rest is backdrop."""
        on = np.zeros(self.portrait.regions.shape, bool)
        on[self.rows, self.columns] = True
        return on


def surface_of(values: np.ndarray, size: int, shape: np.ndarray | None = None) -> Surface:
    """The surface that the portrait of a value vector [K] shows at `size` pixels.

    shape: what is added to its vertices before they turn [V, 3], in dm, for a person whose head is another than the
    drawn one; see `shape_of`. The portrait stays as drawn.

    Raises ValueError as `draw`.
    """
    portrait = draw(values, size)
    screen, camera, _, fine_depth, covering = (array.copy() for array in _buffers(size)[:5])
    if shape is not None:
        camera += np.einsum("vij,vj->vi", _turns(values, size), shape)
        _project(camera, np.asarray(values, np.float32), 2 * size, screen)
        _rasterise(screen, g.TRIANGLES, g.TRIANGLE_PART, fine_depth, covering)
    screen[:, :2] *= 0.5  # the buffers have twice the image's size
    depth, covering = np.empty((size, size), np.float32), np.empty((size, size), np.int32)
    _rasterise(screen, g.TRIANGLES, g.TRIANGLE_PART, depth, covering)
    rows, columns = np.nonzero(covering >= 0)
    corners = g.TRIANGLES[covering[rows, columns]]
    x, y = (screen[corners, axis].astype(np.float64) for axis in (0, 1))
    px, py = columns + 0.5, rows + 0.5
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    second = ((px - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (py - y[:, 0])) / area
    third = ((x[:, 1] - x[:, 0]) * (py - y[:, 0]) - (px - x[:, 0]) * (y[:, 1] - y[:, 0])) / area
    weights = np.stack([1 - second - third, second, third], 1)
    weights /= _away(camera)[corners]  # straight on the surface, not on the screen
    return Surface(
        portrait, camera, screen, fine_depth, rows, columns, corners, weights / weights.sum(1, keepdims=True)
    )


def shape_of(values: np.ndarray, size: int, shift: np.ndarray) -> np.ndarray:
    """The shape (see `surface_of`) with which the vertices of a portrait [V] are seen `shift` [V, 2] pixels, right and
    down, from where they are drawn, as far away as they are."""
    camera = surface_of(values, size).camera
    scale = size * ZOOM * values[INDEX["scale"]] / _away(camera)
    moved = np.concatenate([shift / scale[:, None], np.zeros((len(shift), 1))], 1)
    return np.linalg.solve(_turns(values, size), moved[..., None])[..., 0].astype(np.float32)


def _turns(values: np.ndarray, size: int) -> np.ndarray:
    """How each vertex of the portrait that was drawn last turns [V, 3, 3], from head to camera coordinates."""
    head, body = rotations(np.asarray(values, np.float32))
    extra, pivot = _buffers(size)[5], np.array(PIVOT, np.float32)
    turned = np.empty((3, g.VERTICES, 3), np.float32)
    for axis, unit in enumerate(np.eye(3, dtype=np.float32)):
        _place(np.tile(pivot + unit, (g.VERTICES, 1)), extra, head, body, g.GRID_TABLE, turned[axis])
    return np.moveaxis(turned - pivot, 0, -1)


def _away(camera: np.ndarray) -> np.ndarray:
    """Distance from the camera along its axis, in units of that of the head's origin."""
    return 1 - camera[..., 2].astype(np.float64) / _DISTANCE


def truth(values: np.ndarray, size: int = 256) -> Truth:
    """Depth and normals of the portrait of a value vector [K] at `size` pixels.

    Raises ValueError as `draw`.
    """
    surface = surface_of(values, size)
    depth = np.full((size, size), np.inf, np.float32)
    depth[surface.rows, surface.columns] = _DISTANCE - (surface.weights * surface.camera[surface.corners, 2]).sum(1)
    at_vertices = np.empty_like(surface.camera)
    g.grid_normals(surface.camera, g.GRID_TABLE, at_vertices)
    inside = np.einsum("nk,nkc->nc", surface.weights, at_vertices[surface.corners])
    inside /= np.linalg.norm(inside, axis=1, keepdims=True) + 1e-9
    eye = np.array([0, 0, _DISTANCE]) - np.einsum("nk,nkc->nc", surface.weights, surface.camera[surface.corners])
    inside[(inside * eye).sum(1) < 0] *= -1  # a thin sheet from behind
    normals = np.zeros((size, size, 3), np.float32)
    normals[surface.rows, surface.columns] = inside
    return Truth(depth, normals)


def flow(values_a: np.ndarray, values_b: np.ndarray, size: int = 256) -> Flow:
    """Displacement of each surface point visible in frame a to its place in frame b of the same person.

    Exact for the surface of head, hair, neck and clothes, whose vertices correspond; the backdrop stays. What is
    painted and moves over the surface (lids, iris, brows, lips, teeth) is not part of it; use the landmarks for these.

    Raises:
        ValueError: the frames show two persons: other factors than those of `MOTION` differ; or as `draw`.
    """
    a, b = np.asarray(values_a, np.float32), np.asarray(values_b, np.float32)
    moving = [INDEX[name] for name in MOTION]
    if a.shape == b.shape and not np.array_equal(np.delete(a, moving, -1), np.delete(b, moving, -1)):
        raise ValueError("Flow takes two frames of one person: only the factors of MOTION may differ.")
    return flow_between(surface_of(a, size), surface_of(b, size))


def flow_between(surface: Surface, later: Surface) -> Flow:
    """The flow from one surface to another of the same person and size; see `flow`."""
    size = len(surface.portrait.regions)
    # A point keeps its place between the vertices in space; on the screen near vertices weigh less.
    weights = surface.weights * _away(later.camera)[surface.corners]
    weights /= weights.sum(1, keepdims=True)
    place = np.einsum("nk,nkc->nc", weights, later.screen[surface.corners, :2].astype(np.float64))
    moved = np.zeros((size, size, 2), np.float32)
    moved[surface.rows, surface.columns] = place - np.stack([surface.columns, surface.rows], 1) - 0.5
    # Hidden: all four samples of b around the place are nearer, or the place is outside the image.
    z = (surface.weights * later.camera[surface.corners, 2]).sum(1)
    inside = np.all((place > 0) & (place < size), axis=1)
    column, row = (np.clip(np.floor(2 * place[:, axis] - 0.5).astype(int), 0, 2 * size - 2) for axis in (0, 1))
    around = np.stack([later.fine_depth[row + i, column + j] for i in (0, 1) for j in (0, 1)])
    visible = ~later.covers
    visible[surface.rows, surface.columns] = inside & (around.min(0) <= z + _NEARER) & (around.max(0) > z - _NEARER)
    return Flow(moved, visible)
