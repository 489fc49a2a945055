"""From recorded steps to tokens: the layout of a transition, returns-to-go, windows for training.

A `Record` is plain arrays, wherever it came from. A transition becomes K input tokens,

    target return, [target drawdown,] observation ..., action ..., reward

and each slot has a label: the token of the next slot, and for the last one the *value*, the return from
there on. The target of step t is the return from t on, the value after it that from t + 1 on: the same
quantity in the same bins. After a termination one more row says "stop" where the next observation would
begin, so that a plan ends there instead of dreaming on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import gymnasium
import numpy as np

from models import configuration
from models.agent import Spaces
from models.trajectory.tokens import Method, Tokeniser


class Record(NamedTuple):
    """N recorded transitions; those of an episode follow one another."""

    observation: np.ndarray  # [N, D] before the action
    action: np.ndarray  # [N, *action]
    reward: np.ndarray  # [N]
    terminated: np.ndarray  # [N] bool
    episode: np.ndarray  # [N] int, a number an episode

    def head(self, steps: int) -> Record:
        """The first `steps` transitions."""
        return Record(*(column[:steps] for column in self))

    def starts(self) -> np.ndarray:
        """Bounds of the episodes `[E + 1]`: episode e is rows `bounds[e]` to `bounds[e + 1]`."""
        changes = np.flatnonzero(self.episode[1:] != self.episode[:-1]) + 1
        return np.concatenate([[0], changes, [len(self.episode)]])


def check(record: Record, spaces: Spaces) -> None:
    """Refuses a record that does not fit the spaces of the environment."""
    count = len(record.reward)
    expected = {
        "observation": (count, *spaces.observation.shape),
        "action": (count, *(spaces.action.shape or ())),
        "terminated": (count,),
        "episode": (count,),
    }
    for name, shape in expected.items():
        if getattr(record, name).shape != shape:
            raise configuration.Misfit(
                f"trajectory: the recorded {name} has shape {getattr(record, name).shape}, not {shape}"
            )
    for name in ("observation", "reward"):
        if not np.isfinite(getattr(record, name)).all():
            raise configuration.Misfit(f"trajectory: the recorded {name} is not finite everywhere")
    bounds = record.starts()
    if len(np.unique(record.episode)) != len(bounds) - 1:
        raise configuration.Misfit(
            "trajectory: the transitions of a recorded episode do not follow one another"
        )
    early = np.delete(record.terminated, bounds[1:] - 1)
    if early.any():
        raise configuration.Misfit("trajectory: a recorded episode goes on after it was terminated")


class Layout(NamedTuple):
    """Which slot of a transition holds what."""

    observation: int  # N
    action: int  # M
    drawdown: bool

    @property
    def given(self) -> int:
        """Slots that are prescribed: target return and drawdown."""
        return 2 if self.drawdown else 1

    @property
    def first_action(self) -> int:
        return self.given + self.observation

    @property
    def reward(self) -> int:
        return self.first_action + self.action

    @property
    def slots(self) -> int:
        """K."""
        return self.reward + 1


def layout_of(spaces: Spaces, *, drawdown: bool) -> Layout:
    """The layout for the spaces; a Box action has a token a dimension."""
    size = int(np.prod(spaces.action.shape)) if spaces.action.shape else 1
    return Layout(spaces.observation.shape[0], size, drawdown)


def exact_actions(space: gymnasium.Space, layout: Layout) -> dict[int, list[float]]:
    """The values that an action column can have, where they are countable."""
    if isinstance(space, gymnasium.spaces.Discrete):
        ranges = [(int(space.start), int(space.n))]
    elif isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        ranges = [(int(a), int(n)) for a, n in zip(space.start, space.nvec, strict=True)]
    elif isinstance(space, gymnasium.spaces.Box):
        return {}
    else:
        raise configuration.Misfit(
            f"trajectory: the action space {space} is not Discrete, MultiDiscrete or Box"
        )
    return {
        layout.first_action + place: [float(start + i) for i in range(number)]
        for place, (start, number) in enumerate(ranges)
    }


class Returns(NamedTuple):
    """What lies ahead of every step, and one step after the last of each episode."""

    to_go: np.ndarray  # [N] sum of the next rewards, discounted, this step's included
    after: np.ndarray  # [N] the same from the next step on: zero after a termination
    drawdown: np.ndarray  # [N] largest fall of the summed reward
    known: np.ndarray  # [N] to_go and drawdown are whole
    known_after: np.ndarray  # [N]


def returns_of(record: Record, *, discount: float, steps: int) -> Returns:
    """Over the next `steps` rewards, fewer where the episode terminates; unknown where it is cut before."""
    reward = record.reward.astype(np.float64)
    count = len(reward)
    bounds = record.starts()
    end = np.repeat(bounds[1:], np.diff(bounds))  # [N] end of the own episode
    terminates = np.repeat(record.terminated[bounds[1:] - 1], np.diff(bounds))
    rows = np.arange(count)
    to_go, path = np.zeros(count), np.zeros(count)
    peak, drawdown = np.zeros(count), np.zeros(count)
    for k in range(steps):
        there = rows + k
        gained = np.where(there < end, reward[np.minimum(there, count - 1)], 0.0)
        to_go += discount**k * gained
        path += gained
        peak = np.maximum(peak, path)
        drawdown = np.maximum(drawdown, peak - path)
    known = terminates | (rows + steps <= end)
    last = rows == end - 1
    following = np.minimum(rows + 1, count - 1)
    return Returns(
        to_go=to_go,
        after=np.where(last, 0.0, to_go[following]),
        drawdown=drawdown,
        known=known,
        known_after=np.where(last, terminates, known[following]),
    )


class Table(NamedTuple):
    """The record as tokens: R rows, the stop rows of terminated episodes among them."""

    inputs: np.ndarray  # [R, K] int32
    labels: np.ndarray  # [R, K] int32
    counted: np.ndarray  # [R, K] bool: the label is in the loss
    target_known: np.ndarray  # [R]
    begins: np.ndarray  # [E + 1] bounds of the episodes in rows
    clipped: np.ndarray  # [K + 1] values outside of the fitted range, the value's last


class Numbers(NamedTuple):
    """The columns that are cut into bins: the K inputs and the value."""

    values: np.ndarray  # [N, K + 1]
    returns: Returns


def numbers_of(record: Record, layout: Layout, *, discount: float, steps: int) -> Numbers:
    """The record as K + 1 columns of numbers."""
    found = returns_of(record, discount=discount, steps=steps)
    count = len(record.reward)
    columns = [found.to_go[:, None]]
    if layout.drawdown:
        columns.append(found.drawdown[:, None])
    columns += [
        record.observation.reshape(count, -1),
        record.action.reshape(count, -1),
        record.reward[:, None],
        found.after[:, None],
    ]
    return Numbers(np.concatenate(columns, axis=1).astype(np.float64), found)


def fit_tokeniser(
    numbers: Numbers,
    layout: Layout,
    bins: int,
    method: Method,
    actions: Mapping[int, list[float]],
) -> Tokeniser:
    """Cells for the K + 1 columns. Returns are cut on those that are known, one set of bins for both.

    Without a single known return those of cut episodes have to do.
    """
    values, found = numbers
    known = found.known if found.known.any() else np.ones(len(values), bool)
    # Return columns take their bins from the target column's known rows; zero ends belong there too.
    ends = found.after[found.known_after & (found.after == 0.0)]
    target = np.concatenate([values[known, 0], ends])
    shared = Tokeniser.fit(target[:, None], bins, method=method)
    rest = Tokeniser.fit(values, bins, method=method, exact=actions)
    columns, low, high = list(rest.columns), rest.low.copy(), rest.high.copy()
    for place in (0, layout.slots):
        columns[place], low[place], high[place] = shared.columns[0], shared.low[0], shared.high[0]
    return Tokeniser(columns, low, high)


def tabulate(
    record: Record, numbers: Numbers, layout: Layout, tokeniser: Tokeniser, *, stop: int, unknown: int
) -> Table:
    """The tokens of a record. `stop` and `unknown` are the two tokens that are no bin."""
    slots = layout.slots
    encoded = tokeniser.encode(numbers.values)
    bounds = record.starts()
    ends = bounds[1:] - 1
    stops = record.terminated[ends]  # [E]
    # Each terminated episode is one row longer.
    moved = np.arange(len(record.reward)) + np.repeat(np.cumsum(stops) - stops, np.diff(bounds))
    rows = len(record.reward) + int(stops.sum())
    inputs = np.full((rows, slots), unknown, np.int32)
    inputs[moved] = encoded.tokens[:, :slots]
    labels = np.zeros((rows, slots), np.int32)
    labels[:, :-1] = np.minimum(inputs[:, 1:], stop)
    labels[moved, -1] = encoded.tokens[:, slots]
    counted = np.zeros((rows, slots), bool)
    counted[moved, layout.given - 1 :] = True
    counted[moved, -1] = numbers.returns.known_after
    known = np.zeros(rows, bool)
    known[moved] = numbers.returns.known
    halts = moved[ends[stops]] + 1
    inputs[halts, : layout.given] = inputs[halts - 1, : layout.given]
    known[halts] = known[halts - 1]
    labels[halts, layout.given - 1] = stop
    counted[halts, layout.given - 1] = True
    begins = np.concatenate([[0], np.cumsum(np.diff(bounds) + stops)])
    return Table(inputs, labels, counted, known, begins, encoded.clipped)


class Windows(NamedTuple):
    """Stretches of T rows: what the network reads, what it is to say, and how much each label counts."""

    inputs: np.ndarray  # [..., T, K] int32
    labels: np.ndarray  # [..., T, K] int32
    weight: np.ndarray  # [..., T, K] float32


def windows(
    table: Table,
    starts: np.ndarray,
    transitions: int,
    layout: Layout,
    weights: np.ndarray,
    draw: np.random.Generator | None,
    *,
    unknown: int,
    target_dropout: float,
) -> Windows:
    """The windows from rows `starts [...]` on; after the end of the episode nothing counts.

    An acting agent is not told its past rewards, but a plan holds the rewards it foresees. So with `draw`
    the rewards before a random place of each window are hidden from the input (never from the labels),
    and the targets of a share of the windows are. Without it all are shown.
    """
    rows = starts[..., None] + np.arange(transitions)  # [..., T]
    end = table.begins[np.searchsorted(table.begins, starts, side="right")][..., None]
    inside = rows < end
    rows = np.minimum(rows, len(table.inputs) - 1)
    inputs = np.where(inside[..., None], table.inputs[rows], unknown)
    weight = (table.counted[rows] & inside[..., None]) * weights
    hidden = ~table.target_known[rows]
    if draw is not None:
        hidden = hidden | (draw.random(starts.shape) < target_dropout)[..., None]
        told = np.arange(transitions) >= draw.integers(0, transitions + 1, starts.shape)[..., None]
        inputs[..., layout.reward] = np.where(told, inputs[..., layout.reward], unknown)
    inputs[..., : layout.given] = np.where(hidden[..., None], unknown, inputs[..., : layout.given])
    return Windows(inputs.astype(np.int32), table.labels[rows], weight.astype(np.float32))


def sample_starts(
    table: Table, count: tuple[int, ...], transitions: int, draw: np.random.Generator
) -> np.ndarray:
    """Starts of windows, uniformly over all that fit into an episode whole; short episodes have one."""
    lengths = np.diff(table.begins)
    room = np.maximum(lengths - transitions + 1, 1)
    ends = np.cumsum(room)
    ordinal = draw.integers(0, ends[-1], count)
    episode = np.searchsorted(ends, ordinal, side="right")
    starts: np.ndarray = table.begins[:-1][episode] + ordinal - (ends - room)[episode]
    return starts


def slot_weights(layout: Layout, *, action: float, reward: float, value: float) -> np.ndarray:
    """The weight `[K]` of each label in the loss; slot j is labelled with what follows it."""
    weights = np.ones(layout.slots, np.float32)
    weights[: layout.given - 1] = 0.0
    weights[layout.first_action - 1 : layout.reward - 1] = action
    weights[layout.reward - 1] = reward
    weights[layout.reward] = value
    return weights


def valid_tokens(layout: Layout, tokeniser: Tokeniser, bins: int) -> np.ndarray:
    """Which classes `[K, V + 1]` each head may name; the stop only where an observation begins."""
    counts = tokeniser.counts[1:]  # label of slot j is column j + 1
    valid = np.arange(bins + 1) < counts[:, None]
    valid[layout.given - 1, bins] = True
    return valid


def slot_names(layout: Layout) -> list[str]:
    """The K labels' names."""
    drawdown = ["drawdown"] if layout.drawdown else []
    observations = [f"observation_{i}" for i in range(layout.observation)]
    actions = [f"action_{i}" for i in range(layout.action)]
    return [*drawdown, *observations, *actions, "reward", "value"]


def unigram_and_bigram(train: Table, test: Table, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Held-out cross-entropy `[K]` in nats of the two simplest models of every label.

    The unigram knows how often each token comes in its slot, the bigram the input token just before as
    well. Both are smoothed with one pseudo-count spread over the classes, the bigram towards the unigram.
    """
    slots = train.labels.shape[1]
    unigram, bigram = np.zeros(slots), np.zeros(slots)
    for slot in range(slots):
        seen, asked = train.counted[:, slot], test.counted[:, slot]
        labels = train.labels[seen, slot]
        counts = np.bincount(labels, minlength=classes) + 1.0 / classes
        share = counts / counts.sum()  # [C]
        pairs = np.zeros((classes + 1, classes))
        np.add.at(pairs, (train.inputs[seen, slot], labels), 1.0)
        conditional = (pairs + share) / (pairs.sum(axis=1, keepdims=True) + 1.0)
        wanted, before = test.labels[asked, slot], test.inputs[asked, slot]
        unigram[slot] = -np.log(share[wanted]).mean() if asked.any() else 0.0
        bigram[slot] = -np.log(conditional[before, wanted]).mean() if asked.any() else 0.0
    return unigram, bigram
