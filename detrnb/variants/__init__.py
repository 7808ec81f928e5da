"""The variants: one file each, resolved by name through `detrnb.settings.registry`."""
