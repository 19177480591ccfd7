"""What each number of the report means: shown on hover and as a list at its end."""

from __future__ import annotations

DEFINITIONS = {
    "R1 (I > 3σ)": (
        "Σ|F_obs − F_calc| / ΣF_obs over the reflections with I > 3σ(I), each observation by itself, "
        "pooled, free ones included. F = √I, and 0 where I < 0."
    ),
    "R1 (all)": "The same over all reflections used, also weak and negative ones.",
    "wR": (
        "√(Σw(F_obs − F_calc)² / ΣwF_obs²) over all reflections, w = 1/(σ_F² + (0.01 F_obs)²), "
        "σ_F = σ(I)/2F_obs."
    ),
    "R1_free": "R1 (I > 3σ) of the free set: whole sets of symmetry equivalents that no fit has seen.",
    "Merged R1": (
        "R1 after averaging symmetry equivalents, observed and calculated, on a common scale "
        "(Klar et al. 2023): comparable with kinematical refinements."
    ),
    "Mean of ranges": (
        "Unweighted mean of R1 (I > 3σ) over the virtual frames or ranges of scan angle. Programs that quote "
        "means over frames give such a number; it is not the pooled R1 and is not comparable with it."
    ),
    "Goodness of fit": (
        "√(Σw(Δ/σ)² / (n − p)) of the working set, relative to what the robust weights w of the last stage "
        "make of normally distributed residuals; p is the effective number of parameters. 1 where the "
        "error model describes the residuals."
    ),
    "Hand": (
        "The enantiomorph that fits better, where the space group leaves a choice, and R1 (I > 3σ) of the "
        "other one. z-score: of N reflections with I > 3σ k fit it better than the other hand, "
        "z = (2k − N)/√(N − w); w is the number of reflections that noise decides (Klar et al. 2023). "
        "P = [1 + erf(z/√2)]/2; below z = 3 the hand is not determined."
    ),
    "ln L behind the best": (
        "Each model is fitted to four fifths of the reflections and judged by the likelihood L of the "
        "others, with the standard error of the difference. Chosen is the simplest distribution of one or "
        "two numbers within one standard error of the best of these, or the network where "
        "it is better than each by two."
    ),
    "Part of the structure": (
        "tr(S_c S⁻¹)/Σ_c tr(S_c S⁻¹), of what all crystals say about the structure, S = ΣS_c; S_c is the "
        "normal matrix of crystal c without its own numbers (orientation, thickness, scale)."
    ),
    "Effective parameters": "A parameter that is held by its prior counts less than one.",
    "Thickness": "Mean of the thickness distribution p(t) along the beam, over all observations.",
    "Time": "Wall-clock time of the program; of a run that was resumed, since then.",
    "Mosaic spread": "Standard deviation of the tilts of the crystal's blocks.",
    "Absorption": "Factor on the absorptive potential of thermal diffuse scattering; its s.u. if refined.",
    "K": "Mean I_obs / mean I_calc of a group of reflections.",
    "Δ/σ": (
        "(I_calc − I_obs)/σ′ with σ′ of the error model: σ′² = (kσ)² + (2aP)² + b², "
        "P = (max(I_obs, 0) + 2I_calc)/3; gain k, instability a and floor b."
    ),
    "s.u.": "Standard uncertainty, from the full least-squares matrix and the scatter of the residuals.",
    "Correlation": "C_ij / √(C_ii C_jj) of the covariance matrix C of all refined numbers.",
    "Displacement ellipsoids": "They hold the atom with a probability of 50 %.",
}
