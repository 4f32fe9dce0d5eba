"""Long videos of shapes that come and go, with questions about them and the evidence for each answer."""
