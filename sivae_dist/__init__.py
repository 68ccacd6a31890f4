"""Training of Soft-IntroVAE at high resolution: models, objectives, engines, checkpoints, figures."""
