"""The coordinator: what the space's operator runs. It passes messages, keeps state and multiplies ciphertexts; it holds
no key that opens any of them."""
