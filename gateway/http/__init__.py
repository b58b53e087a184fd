"""HTTP as this project speaks it: identities, bodies, problems, the contract."""
