"""Every map from Tokens to Tokens, one import line each: this list is the registry."""
