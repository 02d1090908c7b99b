"""What only a real Magento can tell: `make magento-check DIR=...`. By hand, never part of `make test`."""
