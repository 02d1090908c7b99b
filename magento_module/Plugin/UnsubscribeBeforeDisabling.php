<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Plugin;

use Magento\Framework\Module\Status;
use Tocsin\BreachNotification\Model\Capture\UnsubscribeViews;

/**
 * `module:disable` tells no module that it is about to go. Were our statements left in a trigger that other views share,
 * nobody would ever take them out, and every save of that table would fail once the changelog is gone.
 */
class UnsubscribeBeforeDisabling
{
    private const MODULE = 'Tocsin_BreachNotification';

    /**
     * @param UnsubscribeViews $unsubscribeViews
     */
    public function __construct(private readonly UnsubscribeViews $unsubscribeViews)
    {
    }

    /**
     * Unsubscribe before the module's own entry in config.php says that it is off.
     *
     * A crash in between leaves the module enabled and unsubscribed: the next setup:upgrade subscribes it again.
     *
     * @param Status $subject
     * @param bool $isEnabled
     * @param string[] $modules
     * @return void
     */
    public function beforeSetIsEnabled(Status $subject, $isEnabled, $modules): void
    {
        if (!$isEnabled && in_array(self::MODULE, $modules, true)) {
            $this->unsubscribeViews->execute(true);
        }
    }
}
