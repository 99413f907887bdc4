"""Result classes and their JSON, both ways."""
