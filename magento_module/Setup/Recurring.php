<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Setup;

use Magento\Framework\App\Filesystem\DirectoryList;
use Magento\Framework\Exception\LocalizedException;
use Magento\Framework\Phrase;
use Magento\Framework\Setup\InstallSchemaInterface;
use Magento\Framework\Setup\ModuleContextInterface;
use Magento\Framework\Setup\SchemaSetupInterface;
use Psr\Log\LoggerInterface;
use Tocsin\BreachNotification\Model\Capture\SubscribeViews;

/**
 * Runs with every setup:upgrade, once all tables are there: capture is on, or is mended, and the log says by what.
 */
class Recurring implements InstallSchemaInterface
{
    /**
     * @param SubscribeViews $subscribeViews
     * @param DirectoryList $directories
     * @param LoggerInterface $logger
     */
    public function __construct(
        private readonly SubscribeViews $subscribeViews,
        private readonly DirectoryList $directories,
        private readonly LoggerInterface $logger
    ) {
    }

    /**
     * @inheritDoc
     * @throws LocalizedException if the module lies where Magento takes no templates from
     */
    public function install(SchemaSetupInterface $setup, ModuleContextInterface $context)
    {
        // From a link Magento takes our classes, but no templates: no customer would see a notice, and in developer mode
        // the account page itself would fail.
        $place = dirname(__DIR__);
        if (!str_starts_with($place . '/', realpath($this->directories->getRoot()) . '/')) {
            throw new LocalizedException(new Phrase(
                'Tocsin_BreachNotification is a link to %1, outside of the shop: Magento would show no notices.'
                . ' Copy it; with composer: composer config repositories.tocsin'
                . ' \'{"type": "path", "url": "%1", "options": {"symlink": false}}\'',
                [$place]
            ));
        }
        foreach ($this->subscribeViews->execute() as $done) {
            // here, as a setup script cannot speak to whoever runs it; changes may have been lost
            $this->logger->warning("Tocsin: $done");
        }
    }
}
