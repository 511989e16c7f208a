# Installs both mechtrons below the app, wherever the app is created.
App {
  Install {
    create? .:validator<Mechtron>{ +config=${bundle}:/config/validator.mechtron };
    create? .:cart<Mechtron>{ +config=${bundle}:/config/cart.mechtron, +bind=${bundle}:/bind/cart.bind };
  }
}
