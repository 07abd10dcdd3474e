//! What the relay has to do with a frame, written plainly, one check after the other, without regard to speed.
