//! Downloads from loopback servers that behave and misbehave.
