"""Continual learning: create flat regions, find flatness, constrain by it (C&F).

Source: Create and Find Flatness (arXiv 2309.11305) as its published code computes it, with
sharpness after Foret et al. 2021 (SAM) and Kwon et al. 2021 (ASAM), importance after Kirkpatrick
et al. 2017 (EWC) in the online form of Schwarz et al. 2018. Each module names its deviations.

Weights w, anchors m (weights at the end of the previous task), gradient g, importance F:

    e_i = rho * w_i^2 * g_i / || |w| * g ||_2                      training.sharpness.perturbed
    g'  = grad L(w + e)                                            training.sharpness.worst_gradient
    F_i = mean_n (d log p(y_n | x_n) / d w_i)^2                    fisher.gathered_fisher
    F <- gamma * F + F_new                                         parts.find.accumulate
    dP/dw_i = lambda * F_i * (w_i - m_i)                           parts.find.add_penalty
    w_i <- clip(w_i, m_i - b_i, m_i + b_i)                         parts.clamp.Clamp
    b_i = max(radius * |m_i|, floor)                               parts.clamp.half_width
    one optimizer step of all parts                                step.ContinualStep
    accuracy matrix, average accuracy, forgetting                  metrics.figures_of

``stream`` loads the tasks in order, ``task`` is what parts see of one, ``worker`` learns them on
every rank, ``stages`` stores what finished tasks left, ``outcome`` makes the package, ``results``
are the typed files and figures, ``runner`` is the job.
"""
