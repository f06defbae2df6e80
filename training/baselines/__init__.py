"""What a picture is compared with."""
