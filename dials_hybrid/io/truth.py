"""A structure in plain words, for a file that tells what a simulation was made of."""

from __future__ import annotations

from cctbx import xray


def described(structure: xray.structure) -> dict:
    """Cell [A, degree], space group and atoms: fractional sites, U in Cartesian axes [A^2]."""
    cell = structure.unit_cell()
    return {
        "cell": list(cell.parameters()),
        "space_group": str(structure.space_group_info()),
        "atoms": [
            {
                "label": scatterer.label,
                "element": scatterer.scattering_type,
                "site": list(scatterer.site),
                "occupancy": scatterer.occupancy,
                "u_cart": list(scatterer.u_cart_plus_u_iso(cell)),
            }
            for scatterer in structure.scatterers()
        ],
    }
