"""The options of diffusers' scheduler classes (0.42): for each class exactly its own, with their defaults.

A class here is named after one there, and its annotations say what a file may hold; Any is of no computation. Options
that several classes share are said once, in the classes at the top.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from ..checks import is_number
from ..config import Check, among
from ..schedule import FINALS, SPACINGS

MOST = 100_000
"""Training times at most, so that a mistyped number is a sentence rather than an array that fills the memory."""

PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
"""What files call a prediction, and what it is called here."""

_Steps: TypeAlias = Annotated[int, Check(f"within 2 … {MOST}", lambda value: 2 <= value <= MOST)]
_Count: TypeAlias = Annotated[int, Check("of at least 0", lambda value: value >= 0)]
_Beta: TypeAlias = Annotated[float, Check("within (0, 1)", lambda value: 0 < value < 1)]
_Ratio: TypeAlias = Annotated[float, Check("within (0, 1]", lambda value: 0 < value <= 1)]
_Positive: TypeAlias = Annotated[float, Check("above 0", lambda value: value > 0)]
_Largest: TypeAlias = Annotated[float, Check("of at least 1", lambda value: value >= 1)]
_Lambda: TypeAlias = Annotated[
    Any, Check("a number or -inf", lambda v: is_number(v) and (v == -math.inf or abs(v) <= sys.float_info.max))
]
_Betas: TypeAlias = Annotated[str, among("linear", "scaled_linear", "squaredcos_cap_v2")]
_Spacing: TypeAlias = Annotated[str, among(*SPACINGS)]
_SolverType: TypeAlias = Annotated[str, among("midpoint", "heun", "logrho", "bh1", "bh2")]
_Off: TypeAlias = Literal[False] | None
_Switch: TypeAlias = bool | None
_Variances: TypeAlias = Annotated[
    str, among("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")
]


@dataclass(frozen=True)
class Options:
    """What every class has."""

    num_train_timesteps: _Steps = 1000
    beta_start: _Beta = 0.0001
    beta_end: _Beta = 0.02
    beta_schedule: _Betas = "linear"
    trained_betas: tuple[_Beta, ...] | None = None
    prediction_type: Annotated[str, among(*PREDICTIONS)] = "epsilon"


@dataclass(frozen=True)
class Spaced:
    """Where the times of a grid lie."""

    timestep_spacing: _Spacing = "linspace"
    steps_offset: _Count = 0


@dataclass(frozen=True)
class Sigmas:
    """σ/α by a formula. Whatever the class, diffusers then reads the file's sigma_min and sigma_max, and else never."""

    use_karras_sigmas: _Switch = False
    use_exponential_sigmas: _Switch = False
    use_beta_sigmas: _Switch = False
    sigma_min: Any = None
    sigma_max: Any = None


@dataclass(frozen=True)
class Thresholded:
    """Whether x0 is thresholded (Imagen, arXiv:2205.11487, sec. 2.3)."""

    thresholding: bool = False
    dynamic_thresholding_ratio: _Ratio = 0.995
    sample_max_value: _Largest = 1.0


@dataclass(frozen=True)
class Clipped:
    """Whether x0 is clipped."""

    clip_sample: bool = False
    clip_sample_range: _Positive = 1.0


@dataclass(frozen=True)
class Rescaled:
    """Whether the schedule is rescaled to zero terminal SNR (arXiv:2305.08891)."""

    rescale_betas_zero_snr: bool = False


@dataclass(frozen=True)
class Cut:
    """Where the noisy end is cut off. The variance is that of other classes: these solvers take none, and
    `guidance.denoiser` leaves away the channels of a learned one."""

    lambda_min_clipped: _Lambda = -math.inf
    variance_type: _Variances | None = None


@dataclass(frozen=True)
class Ended:
    """Whether the grid ends at σ = 0 or at that of t = 0."""

    final_sigmas_type: Annotated[str, among(*FINALS)] = "zero"


@dataclass(frozen=True)
class _Flow:
    """What flow matching would need, which is read so that it is known to be off."""

    use_flow_sigmas: _Off = False
    flow_shift: Any = 1.0


@dataclass(frozen=True)
class _Shifted(_Flow):
    """The same, of the classes that shift by resolution."""

    use_dynamic_shifting: _Off = False
    time_shift_type: Any = "exponential"


@dataclass(frozen=True)
class _Ordered:
    """The order of a solver, and whether it ends with lower ones."""

    solver_order: int = 2
    lower_order_final: bool = True


@dataclass(frozen=True)
class _Narrow(Options):
    """Options with the β of latent diffusion as defaults."""

    beta_start: _Beta = 0.00085
    beta_end: _Beta = 0.012


@dataclass(frozen=True)
class DDIM(Spaced, Clipped, Thresholded, Rescaled, Options):
    timestep_spacing: _Spacing = "leading"
    clip_sample: bool = True
    set_alpha_to_one: bool = True


@dataclass(frozen=True)
class DDPM(Spaced, Clipped, Thresholded, Rescaled, Options):
    timestep_spacing: _Spacing = "leading"
    clip_sample: bool = True
    variance_type: _Variances | None = "fixed_small"


@dataclass(frozen=True)
class DEISMultistep(Spaced, Sigmas, Thresholded, _Shifted, _Ordered, Options):
    solver_type: _SolverType = "logrho"
    algorithm_type: Annotated[str, among("deis", "dpmsolver", "dpmsolver++")] = "deis"


@dataclass(frozen=True)
class DPMSolverMultistep(Spaced, Sigmas, Thresholded, Rescaled, Cut, Ended, _Shifted, _Ordered, Options):
    solver_type: _SolverType = "midpoint"
    algorithm_type: str = "dpmsolver++"
    euler_at_final: bool = False
    use_lu_lambdas: _Switch = False


@dataclass(frozen=True)
class DPMSolverSDE(Spaced, Sigmas, _Narrow):
    noise_sampler_seed: Any = None  # the key's business


@dataclass(frozen=True)
class DPMSolverSinglestep(Sigmas, Thresholded, Cut, Ended, _Shifted, _Ordered, Options):
    solver_type: _SolverType = "midpoint"
    algorithm_type: str = "dpmsolver++"
    lower_order_final: bool = False


@dataclass(frozen=True)
class EulerAncestralDiscrete(Spaced, Rescaled, Options):
    pass


@dataclass(frozen=True)
class EulerDiscrete(Spaced, Sigmas, Rescaled, Ended, Options):
    interpolation_type: Literal["linear"] = "linear"
    timestep_type: Literal["discrete"] = "discrete"


@dataclass(frozen=True)
class HeunDiscrete(Spaced, Sigmas, Clipped, _Narrow):
    pass


@dataclass(frozen=True)
class KDPM2Discrete(Spaced, Sigmas, _Narrow):
    pass


@dataclass(frozen=True)
class KDPM2AncestralDiscrete(KDPM2Discrete):
    pass


@dataclass(frozen=True)
class LCM(Clipped, Thresholded, Rescaled, _Narrow):
    beta_schedule: _Betas = "scaled_linear"
    original_inference_steps: Annotated[int, Check("of at least 1", lambda value: value >= 1)] = 50
    timestep_scaling: _Positive = 10.0
    timestep_spacing: Any = "leading"
    steps_offset: Any = 0
    set_alpha_to_one: Any = True


@dataclass(frozen=True)
class LMSDiscrete(Spaced, Sigmas, Options):
    pass


@dataclass(frozen=True)
class PNDM(Spaced, Options):
    timestep_spacing: _Spacing = "leading"
    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False


@dataclass(frozen=True)
class SASolver(Spaced, Sigmas, Thresholded, Cut, _Flow, Options):
    predictor_order: int = 2
    corrector_order: int = 2
    algorithm_type: Annotated[str, among("data_prediction", "noise_prediction")] = "data_prediction"
    lower_order_final: bool = True
    tau_func: None = None


@dataclass(frozen=True)
class UniPCMultistep(Spaced, Sigmas, Thresholded, Rescaled, Ended, _Shifted, _Ordered, Options):
    solver_type: _SolverType = "bh2"
    predict_x0: bool = True
    disable_corrector: tuple[_Count, ...] = ()
    solver_p: None = None
    shift_terminal: Any = None  # of use_flow_sigmas
