"""How the model is fitted: residuals, least squares, R values, the stages of a refinement."""
