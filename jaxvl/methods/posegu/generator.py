"""PoseGU's pose generator: from a few seed poses to many, with the exact density of each draw.

An *action* turns a seed into another pose: a rotation vector for each of twelve groups of bones, which carries the limb
below, and a length ratio for each of nine groups of bones. It is drawn from a mixture of truncated normal densities p,
which is known exactly, as is the target q: rotations uniform (Haar) within the same largest angle. Their ratio is what
unbiased learning weighs a pose by (`crm`). What a joint cannot do is drawn again; that multiplies p and q alike.

Pure functions of a key with static shapes. Poses are drawn `oversample`-fold, tested, and the valid ones are moved to
the front by a stable sort; where these are fewer than asked for, the rest is marked. Inside, arrays are `[3, J, n]`:
the poses last, since an axis of 3 or 12 fills neither the vectors of a CPU nor the tiles of a TPU.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxvl.core import named
from jaxvl.core.errors import InputError
from jaxvl.data.readers.poses.motions import FAR_RIGHT, NEAR_LEFT, PITCH_DEG, SCREEN
from jaxvl.data.skeletons import H36M16
from jaxvl.methods.posegu import recipe
from jaxvl.methods.posegu.limits import LIMITS
from jaxvl.methods.posegu.recipe import Seeds
from jaxvl.ops import cameras, kinematics

PARENTS = H36M16.parents
ROTATED = (0, 7, 8, 9, 2, 3, 5, 6, 11, 12, 14, 15)
"""Of each rotation group the joint at the end of its bone; 0 turns the whole body. Hips and shoulders have none."""
LENGTHS = (0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 6, 7, 8)
"""Length group of the bones of joints 1 to 15; both sides share one."""
GROUPS = 9
TEMPLATES = np.array(
    [
        [0.132948, 0.442895, 0.454206, 0.233473, 0.257078, 0.181882, 0.151033, 0.278888, 0.251731],
        [0.119313, 0.428286, 0.442444, 0.224318, 0.254055, 0.166181, 0.143097, 0.264585, 0.248621],
        [0.142613, 0.486568, 0.461493, 0.262211, 0.260009, 0.192472, 0.149375, 0.301008, 0.257915],
        [0.135879, 0.448615, 0.438009, 0.226246, 0.255408, 0.168726, 0.139716, 0.275568, 0.247299],
        [0.146537, 0.452147, 0.438634, 0.261216, 0.251024, 0.212796, 0.169316, 0.289908, 0.244177],
    ]
)
"""Metres: bone lengths of Human3.6M's S1, S5, S6, S7, S8 by length group, both sides averaged."""
NEAREST = 1.0
"""Metres in front of the camera that every joint has to be."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """`config.model.gen` as the generator takes it, hashable; fields as in `recipe.base`. limits: the
    function itself. target: log q as a function of rotation vectors `[..., 12, 3]` and settings; None: `haar_ball`."""

    sigma_deg: tuple[float, ...] = recipe.SIGMA_DEG
    theta_max_sigmas: float = 3.0
    theta_cap_deg: float = 180.0
    mix: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    delta: float = 0.15
    fixed_group: int = 4
    bone_length_mode: str = "ratio"
    limits: Callable[[Any], Any] = LIMITS["table"]
    oversample: int = 4
    root_jitter_m: float = 0.5
    cameras: str = "dataset"
    views: int = 4
    target: Callable[..., Any] | None = None

    @property
    def sigma(self) -> np.ndarray:
        """Radians `[12]`."""
        return np.radians(np.array(self.sigma_deg, np.float64))

    @property
    def theta_max(self) -> np.ndarray:
        """Largest angle of each group, radians `[12]`."""
        return np.minimum(self.theta_max_sigmas * self.sigma, math.radians(self.theta_cap_deg))

    @property
    def turned(self) -> np.ndarray:
        """bool `[12]`: the groups that turn at all; a spread of 0 switches one off."""
        return self.sigma > 0

    @property
    def shares(self) -> np.ndarray:
        """Of the components of the mixture, summing to 1."""
        a = np.array([share for share, _ in self.mix], np.float64)
        return a / a.sum()

    @property
    def rounds(self) -> int:
        """How often a rotation beyond its largest angle is drawn again: until a pose of 50 at most has one left, and
        not more than eight times. What is left then makes the pose invalid, so the density stays that of the truncated
        normal."""
        spread = [(limit, s * k) for _, k in self.mix for limit, s in zip(self.theta_max, self.sigma) if s]
        out = max((1 - radial_share(limit / s) for limit, s in spread), default=0.0)
        return next((n for n in range(1, 8) if len(ROTATED) * out**n < 0.02), 8)


def settings_of(config: ConfigDict) -> Settings:
    """The generator of `config.model.gen`. Raises InputError for limits that cannot be found."""
    g = config.model.gen
    other = ("sigma_deg", "mix", "limits", "target")
    same = [f.name for f in dataclasses.fields(Settings) if f.name not in other]
    target = config.model.crm.target
    found = LIMITS.get(g.limits) or named.find(g.limits, "config.model.gen.limits")
    return Settings(
        sigma_deg=tuple(g.sigma_deg),
        mix=tuple((float(share), float(factor)) for share, factor in g.mix),
        limits=found,
        target=None if target == "haar_ball" else named.find(target, "config.model.crm.target"),
        **{name: g[name] for name in same},
    )


class Action(NamedTuple):
    """Drawn for n poses. omega `[n, 12, 3]` radians; scale `[n, 15]` of bones 1 to 15; ratio `[n, 9]`, the same by
    length group; comp, seed `[n]` int32, component and seed; pose `[n, 16, 3]` metres, root-relative, axes of the world
    (z up); valid `[n]` bool."""

    pose: jax.Array
    omega: jax.Array
    ratio: jax.Array
    comp: jax.Array
    seed: jax.Array
    valid: jax.Array


class Generated(NamedTuple):
    """n generated poses. pose `[n, 16, 3]`: root-relative, axes of the world, metres. x2d `[n, 16, 2]`, x3d
    `[n, 16, 3]`: as in the stream `poses`. omega, ratio, comp, seed: the action, see `Action`. log_p, log_q `[n]`:
    densities of omega, of the generator and of the target. valid `[n]` bool: possible, and seen whole."""

    pose: jax.Array
    x2d: jax.Array
    x3d: jax.Array
    omega: jax.Array
    ratio: jax.Array
    comp: jax.Array
    seed: jax.Array
    log_p: jax.Array
    log_q: jax.Array
    valid: jax.Array


def generate(key: jax.Array, seeds: Seeds, settings: Settings, n: int) -> Generated:
    """n poses with their actions, densities and one view of each. Traceable; `settings` and `n` static. Fewer than n
    may be valid: those come first, up to what no camera sees; `generate_valid` makes sure."""
    draw, look = jax.random.split(key)
    action = actions(draw, seeds, settings, n)
    x2d, x3d, seen = views(look, action.pose, action.seed, seeds, settings)
    return Generated(
        pose=action.pose,
        x2d=x2d,
        x3d=x3d,
        omega=action.omega,
        ratio=action.ratio,
        comp=action.comp,
        seed=action.seed,
        log_p=log_propensity(action.omega, settings),
        log_q=log_target(action.omega, settings),
        valid=action.valid & seen,
    )


def generate_valid(key: jax.Array, seeds: Seeds, settings: Settings, n: int, tries: int = 8) -> Generated:
    """n valid poses, numpy, on the host: draws again with a new key until there are enough. Raises InputError where
    the seeds hardly leave a pose that is valid."""
    draw = jax.jit(generate, static_argnums=(2, 3))
    drawn = max(n, 256)  # of fewer none may be valid by chance
    parts: list[Generated] = []
    count = 0
    for attempt in range(tries):
        part = jax.device_get(draw(jax.random.fold_in(key, attempt), seeds, settings, drawn))
        parts.append(Generated(*(x[part.valid] for x in part)))
        count += int(part.valid.sum())
        if count >= n:
            return Generated(*(np.concatenate(column)[:n] for column in zip(*parts)))
    raise InputError(
        f"config.model.gen: of {tries * drawn * settings.oversample:,} poses drawn around these seeds {count:,} are "
        f"valid, {n:,} are needed; smaller sigma_deg, limits 'none', or other seeds"
    )


def surviving(world: np.ndarray, settings: Settings, n: int = 4096) -> float:
    """Around seeds `[P, 16, 3]`, the share of drawn poses that are valid, measured on n that numpy draws."""
    rng = np.random.default_rng(0)
    comp = rng.choice(len(settings.mix), n, p=settings.shares)
    spread = np.array([factor for _, factor in settings.mix])[comp, None, None] * settings.sigma[:, None]
    limit, omega = settings.theta_max, np.zeros((n, len(ROTATED), 3))
    far = np.ones(omega.shape[:2], bool)
    for _ in range(settings.rounds):
        omega = np.where(far[..., None], spread * rng.normal(size=omega.shape), omega)
        far = np.linalg.norm(omega, axis=-1) > limit
    world = np.asarray(world, np.float64)[rng.integers(0, len(world), n)]
    scale = 1 + settings.delta * rng.uniform(-1, 1, (n, GROUPS))[:, list(LENGTHS)]
    pose = act(kinematics.bones(world, PARENTS), omega, scale)
    return float((np.asarray(settings.limits(pose)) & ~far.any(1)).mean())


def check_survival(world: np.ndarray, settings: Settings) -> None:
    """Raises InputError where `oversample` draws a pose do not give one that is valid."""
    share = surviving(world, settings)
    if share * settings.oversample < 1.05:
        more = f"raise it to {math.ceil(1.3 / share)}" if share > 0.01 else "take smaller sigma_deg, or limits 'none'"
        raise InputError(
            f"config.model.gen.oversample: {settings.oversample}, but of the poses drawn around these seeds only "
            f"{100 * share:.2g} % are valid; {more}"
        )


# -- actions


def actions(key: jax.Array, seeds: Seeds, settings: Settings, n: int) -> Action:
    """n actions and the poses that they make of their seeds, of `n * oversample` drawn ones the first valid ones."""
    drawn = draw(key, seeds, settings, n * settings.oversample)
    front = jnp.argsort(~drawn.valid, stable=True)[:n]
    return Action(*(x[front] for x in drawn))


def draw(key: jax.Array, seeds: Seeds, settings: Settings, n: int) -> Action:
    """n actions, valid or not. Seeds are drawn uniformly."""
    keys = jax.random.split(key, 3)
    # the remainder is uniform but for one part in 2^32 / count; `randint` draws twice
    seed = (jax.random.bits(keys[0], (n,)) % seeds.count.astype(jnp.uint32)).astype(jnp.int32)
    each = jax.random.uniform(keys[1], (n, GROUPS + 1))
    passed = jnp.asarray(np.cumsum(settings.shares)[:-1], jnp.float32)
    comp = (each[:, -1:] >= passed).sum(1, dtype=jnp.int32)
    omega, inside = _rotations(keys[2], comp, settings)
    world = seeds.world[seed].T
    bones = jnp.stack([world[:, j] - world[:, max(p, 0)] for j, p in enumerate(PARENTS)], 1)
    scale, ratio = lengths(each[:, :-1], bones.T, settings)
    pose = _act(bones, omega, scale.T).T
    return Action(pose, omega.T, ratio, comp, seed, inside & settings.limits(pose))


def rotations(key: jax.Array, comp: jax.Array, settings: Settings) -> tuple[jax.Array, jax.Array]:
    """Components `[n]` -> rotation vectors `[n, 12, 3]`, normal with the component's spread and truncated at the
    largest angle of each group; and bool `[n]`, whether all of them were within it after the last round."""
    omega, within = _rotations(key, comp, settings)
    return omega.T, within


def _rotations(key: jax.Array, comp: jax.Array, settings: Settings) -> tuple[jax.Array, jax.Array]:
    """`rotations` as `[3, 12, n]`."""
    n = len(comp)
    factor = jnp.asarray([k for _, k in settings.mix], jnp.float32)[comp]
    spread = jnp.asarray(settings.sigma, jnp.float32)[:, None] * factor
    limit = jnp.asarray(settings.theta_max, jnp.float32)[:, None] ** 2
    drawn = jax.random.normal(key, (settings.rounds, n, len(ROTATED) * 3))  # rows of 3 would be slow to fill
    fresh = [x.reshape(n, -1, 3).T * spread for x in drawn]
    omega, within = fresh[0], (fresh[0] ** 2).sum(0) <= limit
    for again in fresh[1:]:
        omega = jnp.where(within, omega, again)
        within = (omega * omega).sum(0) <= limit
    return omega, within.all(0)


def lengths(u: jax.Array, bones: jax.Array, settings: Settings) -> tuple[jax.Array, jax.Array]:
    """Factors of the bones 1 to 15 of `[n, 16, 3]`, `[n, 15]`, and the same by length group, `[n, 9]` (the mean, where
    a template makes the sides of an uneven seed even), from uniform numbers u `[n, 9]`."""
    group, kept = np.array(LENGTHS), np.arange(GROUPS) == settings.fixed_group
    if settings.bone_length_mode == "ratio":
        ratio = jnp.where(kept, 1.0, 1 + settings.delta * (2 * u - 1))
        return ratio[:, group], ratio
    wanted = jnp.asarray(TEMPLATES, jnp.float32)[(u[:, 0] * len(TEMPLATES)).astype(jnp.int32)]
    own = jnp.linalg.norm(bones[:, 1:], axis=-1)
    scale = jnp.where(kept[group], 1.0, wanted[:, group] / jnp.maximum(own, 1e-9))
    members = np.equal.outer(group, np.arange(GROUPS)).astype(np.float32)
    return scale, jnp.einsum("nb,bg->ng", scale, members / members.sum(0), precision="highest")


def act(bones: kinematics.Array, omega: kinematics.Array, scale: kinematics.Array) -> kinematics.Array:
    """Poses `[n, 16, 3]` of bones `[n, 16, 3]`, rotation vectors `[n, 12, 3]` and factors `[n, 15]`, joint 0 at the
    origin. NumPy or JAX."""
    return _act(bones.T, omega.T, scale.T).T


def _act(bones: kinematics.Array, omega: kinematics.Array, scale: kinematics.Array) -> kinematics.Array:
    """`act` of `[3, 16, n]`, `[3, 12, n]` and `[15, n]`, `[3, 16, n]`."""
    xp = kinematics.like(bones)
    q = kinematics.axis_angle_quaternion_of(omega)
    turns = [[x[ROTATED.index(j)] for x in q] if j in ROTATED else None for j in range(len(PARENTS))]
    after = [[0 * x for x in bones[:, 0]]]
    for j, turn in enumerate(kinematics.carried_of(turns, PARENTS)[1:], 1):
        bone = bones[:, j] if turn is None else kinematics.rotate_of(turn, bones[:, j])
        after.append([x * scale[j - 1] for x in bone])
    return xp.stack([xp.stack(x, 0) for x in zip(*kinematics.joints_of(after, PARENTS))], 0)


# -- densities


def radial_share(r: float) -> float:
    """Distribution of the length of a standard normal vector in space: `erf(r / sqrt 2) - sqrt(2/pi) r exp(-r^2/2)`."""
    return math.erf(r / math.sqrt(2)) - math.sqrt(2 / math.pi) * r * math.exp(-r * r / 2)


@functools.lru_cache(maxsize=64)
def _constants(settings: Settings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(factors of theta^2 [C, K], logarithms of the normal's factor and its share inside [C, K], of q's factor [K])`
    for the K groups that turn."""
    sigma, limit = settings.sigma[settings.turned], settings.theta_max[settings.turned]
    spread = np.array([[k] for _, k in settings.mix]) * sigma
    inside = np.vectorize(radial_share, otypes=[np.float64])(limit / spread)
    normal = -1.5 * np.log(2 * np.pi * spread**2) - np.log(inside)
    return -0.5 / spread**2, normal, -np.log(4 * np.pi * (limit - np.sin(limit)))


def log_propensity(omega: jax.Array, settings: Settings) -> jax.Array:
    """log p of rotation vectors `[..., 12, 3]`, `[...]`: the density from which the generator draws them, over all
    components. -inf beyond the largest angles."""
    square, inside = _squares(omega, settings)
    factor, normal, _ = _constants(settings)
    each = jnp.asarray(factor, omega.dtype) * square[..., None, :] + jnp.asarray(normal, omega.dtype)
    total = each.sum(-1) + jnp.asarray(np.log(settings.shares), omega.dtype)
    return jnp.where(inside, jax.scipy.special.logsumexp(total, -1), -jnp.inf)


def log_target(omega: jax.Array, settings: Settings) -> jax.Array:
    """log q of rotation vectors `[..., 12, 3]`, `[...]`: the density under which the loss is to be small."""
    return (settings.target or haar_ball)(omega, settings)


def haar_ball(omega: jax.Array, settings: Settings) -> jax.Array:
    """Rotations uniform over SO(3) (Haar), restricted to the largest angle of each group. -inf beyond."""
    square, inside = _squares(omega, settings)
    small = square < 1e-8
    half = jnp.sqrt(jnp.where(small, 1.0, square)) / 2
    # log((1 - cos t)/t^2) = log 1/2 + 2 log(sin(t/2) / (t/2))
    shape = math.log(0.5) + jnp.where(small, -square / 12, 2 * jnp.log(jnp.sin(half) / half))
    each = shape + jnp.asarray(_constants(settings)[2], omega.dtype)
    return jnp.where(inside, each.sum(-1), -jnp.inf)


def _squares(omega: jax.Array, settings: Settings) -> tuple[jax.Array, jax.Array]:
    """Squared angles of the groups that turn, and whether all are within their limits (to float32's rounding)."""
    kept = np.flatnonzero(settings.turned)
    square = (omega[..., kept, :] ** 2).sum(-1)
    return square, (square <= jnp.asarray(settings.theta_max[kept] ** 2 * (1 + 1e-6), omega.dtype)).all(-1)


# -- views


def views(
    key: jax.Array, pose: jax.Array, seed: jax.Array, seeds: Seeds, settings: Settings
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Poses `[n, 16, 3]` of seeds `[n]` -> `(x2d [n, 16, 2], x3d [n, 16, 3], seen [n] bool)`.

    Cameras of the data set: the pose is put back to where its seed stood, moved by up to `root_jitter_m` on the ground,
    turned about the vertical, and seen by one of the cameras of the seed's subject, with distortion. Random ones: a
    camera somewhere around the pose. Of `views` tries the first that has the whole pose in its picture and at least a
    metre away is taken. No density belongs to any of this, since it is the same for generator and target.
    """
    n, tries, pose = len(pose), settings.views, pose[:, None]
    keys = jax.random.split(key)
    u = jax.random.uniform(keys[0], (n, tries, 4))
    yaw, zero = math.pi * (2 * u[..., 0] - 1), jnp.zeros((n, tries))
    if settings.cameras == "dataset":
        subject = seeds.subject[seed][:, None]
        which = (u[..., 1] * seeds.cameras_q.shape[1]).astype(jnp.int32)
        jitter = settings.root_jitter_m * (2 * u[..., 2:] - 1)
        upright = jnp.stack([jnp.cos(yaw / 2), zero, zero, jnp.sin(yaw / 2)], -1)
        place = seeds.world[seed, 0][:, None] + jnp.concatenate([jitter, zero[..., None]], -1)
        q, t, k = (x[subject, which] for x in (seeds.cameras_q, seeds.cameras_t, seeds.cameras_k))
        world = kinematics.rotate(upright[..., None, :], pose) + place[..., None, :]
        x3d = kinematics.world_to_camera(world, q[..., None, :], t[..., None, :])
    else:
        pitch = jnp.radians(PITCH_DEG[0] + PITCH_DEG[1] * jax.random.normal(keys[1], (n, tries)))
        low, high = (jnp.asarray(corner, jnp.float32) for corner in (NEAR_LEFT, FAR_RIGHT))
        with jax.default_matmul_precision("highest"):
            axes = cameras.upright_view(yaw, pitch)
        x3d = (axes[..., None, :, :] * pose[..., None, :]).sum(-1) + (low + (high - low) * u[..., 1:])[..., None, :]
        k = jnp.asarray(SCREEN)
    x2d = cameras.project(x3d, k[..., None, :])
    seen = (jnp.abs(x2d) <= 1).all((-1, -2)) & (x3d[..., 2] >= NEAREST).all(-1)
    first = jnp.argmax(seen, 1)[:, None]
    take = lambda x: jnp.take_along_axis(x, first[..., None, None], 1)[:, 0]  # noqa: E731
    seen = seen.any(1)
    return jnp.where(seen[:, None, None], take(x2d), 0.0), take(x3d), seen  # what is at the camera has no place on it
