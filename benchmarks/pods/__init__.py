"""What the published configs cost on TPU slices, as compiled without them."""
