"""From a prompt to an image: its grammar, the noise schedule and sampler, the network that takes noise away."""
