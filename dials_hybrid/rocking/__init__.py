"""From what was measured to rocking steps and windows, however finely a refinement wants them."""
