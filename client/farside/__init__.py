"""The small library with which a training script hands its checkpoints to Farside."""
