"""From images back to codes: the built-in encoder, the published ones, optimisation, and pivotal tuning."""
