"""State of recurrent and convolution layers: its layout, slots and memory, and the layers that use it."""
