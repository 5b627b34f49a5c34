"""Pick drawings of many hands out of the Open Clip Art Library: the second style that training never sees.

They were chosen by eye: a thing by itself, whole, named as it is named here. All are in the public domain.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from training.packages import CLIP_ART_PACKAGE, package_folder

logger = logging.getLogger(__name__)

# concept: how the names of its files begin
_TABLE = """
dog: dog_01_drawn_with_strai_01 dog_03_drawn_with_strai_01 dog_04_drawn_with_strai_01 dog_05_drawn_with_strai_01
dog: dog_06_drawn_with_strai_01 dog_on_leash_gerald_g._01 bored_dog_01 dog_head_nicu_buculei_02
cat: cartoon_cat_gerald_g._01 gatto_cat_architetto_fra_01 gatto_cat_architetto_fra_02 gatto_cat_architetto_fra_03
cat: gatto_cat_architetto_fra_04 kitten_gerald_g._01
sheep: dall_sheep_ram_ganson sheep-md
pig: a_simple_pig_01 pig_marcelo_caiafa1
elephant: contour_elephant elephant_01
giraffe: contour_giraffe
duck: jonathon_s_duck_01 rubber_duck1_ganson
fish: brown_fish_01 giraffe_cichlid_01
butterfly: farfalla_butterfly_fra1
car: car_ride_ganson formula_one_car_gerald_g_01 skoda_car_alejandro
bus: aiga_bus_ bus1_jarno_vasamaa_01 bus2_jarno_vasamaa_01
motorcycle: motorcycle_jarno
airplane: aircraft_jarno_vasamaa1 aircraft_jarno_vasamaa2 aircraft_jarno_vasamaa3 aircraft_jarno_vasamaa4
airplane: aircraft_jarno_vasamaa_ airplane_nicu_buculei_01 plane_silhouet_mo_01
boat: boat_jarno_vasamaa1 boat_jarno_vasamaa_ sailboat_illustration
television: television_alexander
house: small_house_01 gnome-fs-home home6
tree: fall_coloured_tree tree_-_rpg_map_elements_01 tree_-_rpg_map_elements_03 tree_-_rpg_map_elements_05
tree: tree_-_rpg_map_elements_07 tree_-_rpg_map_elements_08
pizza: pizza_4_stagioni pizza_cheese pizza_pepperoni pizza_slice_fco
apple: apple_bw cartoon_apple_k_yager_01
banana: bananas_nicu_buculei_01
strawberry: strawberry_simple
umbrella: canada_umbrella_ganson
guitar: bass_guitar electric_guitar_andrea guitar_ganson guitar_jarno_vasamaa1 guitar_jarno_vasamaa2
soccer ball: soccer_ball_ganson
laptop: etiquette_laptop_01
"""


def clip_art_files(work: Path, concept: str) -> Iterator[Path]:
    """Find a concept's drawings, one file for each name of the table."""
    folder = package_folder(work, CLIP_ART_PACKAGE)
    lines = [line.partition(":") for line in _TABLE.split("\n")]
    for start in [start for name, _, starts in lines if name == concept for start in starts.split()]:
        found = sorted(folder.rglob(f"{start}*.svg"))
        if found:
            yield found[0]
        else:
            logger.warning("No clip art begins with %s.", start)
