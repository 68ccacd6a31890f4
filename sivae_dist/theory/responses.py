"""The best answer of each player to the other's table."""

import numpy as np

from sivae_dist.theory.game import Array, Game, divergence

_HALVINGS = 200
"""Of an interval in [0, 1], until it cannot be halved in float64."""

_ROUNDS = 5000
_STILL = 1e-14
"""The decoder's ascent ends after so many rounds, or when no probability changes by more than this.

It needs some hundred, and more than there are only at a gamma where a maximum is about to split in two.
"""


def best_encoder(game: Game, d: Array) -> Array:
    """A q [..., X, Z] that maximizes L_q(., d), for any decoder d [..., Z, X], by Lemma 4's own argument.

    By equation 15, x counts for itself, and only KL(q(.|x) || p_d(.|x)) matters. It should be 0, or the value at which
    the derivative is 0: log(p_d(x)^(alpha + 1) / p_data(x)) / alpha where that is positive, and the largest that there
    is where p_data(x) = 0. Every value up to that of the posterior's least likely z is attained on the way from the
    posterior to that z; other q's of the same KL are as good.
    """
    posterior, made = game.posterior(d), game.marginal(d)
    with np.errstate(divide="ignore", invalid="ignore"):
        # At real data a z that the posterior excludes costs infinitely much; at others it is the best there is.
        allowed = (posterior > 0) | (game.data == 0)[:, None]
        surprise = np.where(allowed, -np.log(posterior), -np.inf)
        wanted = ((game.alpha + 1) * np.log(made) - np.log(game.data)) / game.alpha
    wanted = np.where(made > 0, np.maximum(wanted, 0), 0)
    least = np.eye(len(game.prior))[surprise.argmax(-1)]
    low, high = np.zeros_like(made), np.where(wanted > 0, 1.0, 0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = divergence(_between(posterior, least, middle), posterior) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
        if (high - low <= np.spacing(low)).all():
            break
    share = np.where((wanted > 0) & (wanted >= surprise.max(-1)), 1, low)
    return _between(posterior, least, share)


def best_decoder(game: Game, q: Array, starts: Array) -> tuple[Array, Array]:
    """The d [Z, X] of the largest L_d(q, .) that is reached from any of `starts` [N, Z, X], and each start's value [N].

    L_d is not concave in d, so that no ascent promises its maximum; `minimum.lower_bound` bounds what can be missed in
    the equilibrium.
    """
    d, value = starts, game.decoder_value(q, starts)
    for _ in range(_ROUNDS):
        target, share = _target(game, q, d), np.ones(len(d))
        while True:
            new = d + share[:, None, None] * (target - d)
            new_value = game.decoder_value(q, new)
            # Up to rounding. The way to the target leads upwards at first, so that some part of it does.
            worse = new_value < value - 1e-14 * np.maximum(1, np.abs(value))
            if not worse.any():
                break
            share = np.where(worse, share / 2, share)
        change = np.abs(new - d).max()
        d, value = new, new_value
        if change <= _STILL:
            break
    return d[value.argmax()], value


def _between(start: Array, end: Array, share: Array) -> Array:
    return (1 - share[..., None]) * start + share[..., None] * end


def _target(game: Game, q: Array, d: Array) -> Array:
    """The maximum of a concave function with the slope of L_d at d [N, Z, X].

    Where L_d is stationary, p_d(x|z) = a / (lambda_z - b) with a = (p_data(x) + gamma p_d(x)) q(z|x) and b = gamma p(z)
    W(x), and lambda_z makes it sum to 1. With a and b of the d that there is, this maximizes sum a log d + b d.
    """
    a = (game.data + game.gamma * game.marginal(d))[:, None, :] * q.T
    elbo = np.maximum(game.elbo(q, d), -1e300)  # -inf at an x that cannot be made from its own z
    b = game.gamma * game.prior[:, None] * elbo[:, None, :]
    # Of lambda only its distance from the largest b, lest a small a be lost in rounding. Each a / (lambda - b) is
    # convex and falls, so that Newton's method rises to the root from below without overshooting. It starts at bounds
    # from below: each part is at most 1, and their sum at least what it were with the mean of b everywhere.
    below = b.max(-1, keepdims=True) - b
    total = a.sum(-1, keepdims=True)
    level = np.maximum((a - below).max(-1, keepdims=True), total - _ratio((a * below).sum(-1, keepdims=True), total))
    level = np.maximum(level, 0)
    for _ in range(100):
        part = _ratio(a, level + below)
        excess = part.sum(-1, keepdims=True) - 1
        if (excess <= 4e-16).all():
            break
        fall = _ratio(part, level + below).sum(-1, keepdims=True)
        level = level + np.where(excess > 0, excess / np.where(excess > 0, fall, 1), 0)
    # What is missing in a row goes to an x with q(z|x) = 0, which is worth it if its b is above all others' lambda.
    missing = np.maximum(1 - part.sum(-1, keepdims=True), 0)
    best = np.eye(b.shape[-1])[b.argmax(-1)]
    return _normalized(np.where(missing > 1e-14, part + missing * best, part))


def _ratio(over: Array, under: Array) -> Array:
    """over / under, and 0 where over is 0."""
    return np.divide(over, under, out=np.zeros_like(over), where=over > 0)


def _normalized(p: Array) -> Array:
    return p / p.sum(-1, keepdims=True)
